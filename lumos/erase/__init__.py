"""Everything that names a user, taken out of everything that LUMOS wrote. The verb is ``erase``."""
