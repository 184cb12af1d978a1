"""The U-Nets of EDM and EDM2."""
