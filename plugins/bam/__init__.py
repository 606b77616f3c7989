"""The card of BAM (Clark et al. 2019). All parts are those of the core; nothing is registered here."""
