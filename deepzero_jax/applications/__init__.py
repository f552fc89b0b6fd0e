"""Problems with their fields, their program and their parts; the commands that run them."""
