"""PhiFlow as a judge of the wake: the same flow from another code (extra ``judge``)."""

import dataclasses

import numpy as np
import pytest

from deepzero_jax.applications.solver_in_the_loop import wake

REASON = 'PhiFlow is not installed: pip install -e ".[judge]"'
flow = pytest.importorskip("phi.flow", reason=REASON)
fields = pytest.importorskip("phi.field", reason=REASON)
advection = pytest.importorskip("phi.physics.advect", reason=REASON)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
REYNOLDS = 150.0


class Judge:
    """PhiFlow's operators in the order of our step.

    Its walls move with the inflow: those that slip leak in version 3.4 (``combine_by_direction``).
    Its MacCormack advection cannot pad such walls, so the same is put together from its
    interpolation.
    """

    def __init__(self, problem):
        flow.math.set_global_precision(64)
        self.problem = problem
        length, width = problem.length, problem.cell * problem.num_across
        walls = flow.vec(x=1.0, y=0.0)
        sides = {"x-": walls, "x+": flow.extrapolation.ZERO_GRADIENT, "y": walls}
        start = flow.StaggeredGrid(
            walls,
            sides,
            x=problem.num_along,
            y=problem.num_across,
            bounds=flow.Box(x=length, y=width),
        )
        along, across = (start.vector[name].values for name in "xy")
        bend = 0.1 * flow.math.sin(2 * np.pi * start.vector["y"].points["x"] / length)
        values = flow.math.stack([along, bend + 0 * across], flow.dual(vector="x,y"))
        self.cylinder = flow.Obstacle(flow.Sphere(x=length / 4, y=width / 2, radius=problem.radius))
        self.velocity = self.projected(start.with_values(values))

    def projected(self, velocity):
        solve = flow.Solve("scipy-direct")
        return flow.fluid.make_incompressible(velocity, self.cylinder, solve)[0]

    def step(self):
        velocity, dt = self.velocity, self.problem.dt
        moved = self.advected(velocity, dt)
        viscosity = 2 * self.problem.radius / REYNOLDS
        moved = flow.diffuse.explicit(moved, viscosity, dt, substeps=2)
        self.velocity = self.projected(moved)

    def advected(self, velocity, dt):
        before, after = (advection.euler(velocity, velocity, time) for time in (-dt, dt))
        forward = velocity.with_values(fields.reduce_sample(velocity, before))
        backward = velocity.with_values(fields.reduce_sample(forward, after))
        corrected = (forward + 0.5 * (velocity - backward)).values
        parts = [
            flow.math.unstack(values, "~vector")
            for values in (corrected, velocity.values, before, velocity.points)
        ]
        clamped = []
        for new, old, lookup, points in zip(*parts, strict=True):
            place = (lookup - points[{"x": 0, "y": 0}]) / velocity.dx
            near = flow.math.closest_grid_values(old, place, flow.extrapolation.ZERO_GRADIENT)
            corners = ["closest_x", "closest_y"]
            least, largest = flow.math.min(near, corners), flow.math.max(near, corners)
            clamped.append(flow.math.clip(new, least, largest))
        return velocity.with_values(flow.math.stack(clamped, flow.dual(vector="x,y")))

    def state(self):
        """Velocities on our faces, the walls left out: [along, across], [along, across − 1]."""
        return tuple(self.velocity.vector[name].values.numpy("x,y") for name in "xy")


@pytest.mark.parametrize("num_across", [32, 64])
def test_the_flow_is_that_of_phiflow(num_across):
    problem = wake.Wake(num_along=2 * num_across, num_across=num_across)
    judge = Judge(problem)
    at_rest = wake.resting_start(problem, np.array([REYNOLDS])).astype(np.float64)
    # A step of no time only projects.
    states = wake.numpy_solver(dataclasses.replace(problem, dt=1e-9))(at_rest)
    solve = wake.numpy_solver(problem)
    # PhiFlow's cylinder has soft edges. Away from them the two agree much better.
    along, across = np.indices(problem[:2])
    distance = np.hypot(along - problem.num_along / 4, across - problem.num_across / 2)
    away = distance * problem.cell > 1.5 * problem.radius
    for num_steps in range(21):
        if num_steps:
            judge.step()
            states = solve(states)
        if num_steps not in (0, 1, 20):
            continue
        for theirs, ours in zip(judge.state(), np.moveaxis(states[0, ..., :2], -1, 0), strict=True):
            columns = theirs.shape[1]
            gap = np.abs(theirs - ours[:, :columns])[away[:, :columns]]
            print(f"after {num_steps} steps: mean {gap.mean():.5f}, largest {gap.max():.5f}")
            assert gap.mean() < 0.02  # of the inflow
