"""Training schedules for generator and discriminator other than joint training."""
