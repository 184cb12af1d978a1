"""memaudit: does a trained diffusion model copy its training images?"""

__version__ = "0.1.0.dev0"
