"""Born-again multi-task networks (Clark et al. 2019): their card. All parts are those of the core; nothing is registered."""
