from tests.problems import estimated, quadratic, quadratic_problem

__all__ = ["estimated", "quadratic", "quadratic_problem"]
