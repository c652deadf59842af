"""What boots: kernels and entries on /boot, and the boot loaders that choose among them."""
