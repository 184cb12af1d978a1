"""memaudit: does a trained diffusion model copy its training images?

The public names are listed in `__init__.pyi`. Each is imported when it is first used, so that
`import memaudit` and `memaudit --help` stay light.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
