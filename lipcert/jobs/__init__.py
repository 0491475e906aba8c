"""What the Hydra applications do once their settings are composed, one file each."""
