"""Encoders, heads and tokenizers to and from Hugging Face `transformers`: the BERT and ELECTRA families."""
