from tests.problems import flatten, network_loss, relative_error, smooth, some_coordinates

__all__ = ["flatten", "network_loss", "relative_error", "smooth", "some_coordinates"]
