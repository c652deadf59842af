"""Tarballs and OCI image layouts as images, and images as tarballs."""
