"""Neural-network parts shared by criteria, models and noisers."""
