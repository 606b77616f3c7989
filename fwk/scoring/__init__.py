"""(Pseudo-)log-likelihoods of text under a trained model: lines of a file, minimal pairs, n-best lists to re-rank."""
