"""Problems that zeroth-order training solves, built on the library."""
