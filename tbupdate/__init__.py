"""tb-update: atomic system updates for Linux on Btrfs."""
