"""Ways to train generator and discriminator other than jointly."""
