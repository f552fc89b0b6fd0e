"""The defenses: what each trains, how its gradient is made, how it answers."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from deepzero_jax.applications.blackbox_defense.defense import (
    Defense,
    denoise,
    loss_at_the_box,
    loss_of_an_image,
    loss_of_parameters,
    split_variables,
)
from deepzero_jax.applications.blackbox_defense.stability import (
    Objective,
    answers,
    counted_first_order,
    estimated_answers,
    noisy_task,
    prepared_loss,
)
from deepzero_jax.estimators import (
    Estimator,
    cge,
    cosine_basis,
    differentiable,
    first_order,
    rge,
)
from deepzero_jax.registry import Registry, present
from deepzero_jax.training import Task, cross_entropy
from deepzero_jax.types import Key, Params, PyTree


class Method(NamedTuple):
    """One defense, ready for the training loop.

    Attributes:
      task: what it trains.
      estimator: of the gradient, and of what a step costs in queries.
      respond: ``(params, model_state, images) -> logits``, once trained.
      asked_at: ``(key) -> (fun, point)``: a function of JAX whose differences the estimator takes,
        and a point to probe it at; None where no differences are taken.
    """

    task: Task
    estimator: Estimator
    respond: Callable[[PyTree, PyTree, jax.Array], jax.Array]
    asked_at: Callable[[Key], tuple[Callable[[PyTree], jax.Array], PyTree]] | None = None


class Start(NamedTuple):
    """Where training starts; variables have ``params`` and perhaps ``batch_stats``.

    Attributes:
      denoiser: variables of the denoiser.
      autoencoder: variables of the auto-encoder; None for other methods than ``zo_ae_ds``.
    """

    denoiser: PyTree
    autoencoder: PyTree | None = None


def _at_image(defense: Defense, start: Start, objective: Objective, estimator: Estimator) -> Method:
    run = lambda p, s, x: denoise(defense.denoiser, p, s, x, train=True)
    task = noisy_task(
        defense.examples,
        defense.batch_size,
        defense.sigma,
        lambda _: split_variables(start.denoiser),
        prepared_loss(run, objective),
        defense.respond,
        defense.box,
    )
    return Method(task, estimator, defense.respond)


def _at_code(defense: Defense, start: Start, estimator: Estimator) -> Method:
    network, frozen = defense.autoencoder, start.autoencoder
    if frozen is None:
        raise ValueError("zo_ae_ds needs the variables of an auto-encoder to start from")

    def behind(code: jax.Array) -> jax.Array:
        decoded = network.apply(frozen, code, method=network.decode)
        return defense.box(jnp.asarray(decoded))

    def encode(
        params: PyTree, model_state: PyTree, images: jax.Array, train: bool
    ) -> tuple[jax.Array, PyTree]:
        cleaned, model_state = denoise(
            defense.denoiser, params["denoiser"], model_state, images, train
        )
        variables = {"params": params["encoder"]}
        code = network.apply(variables, cleaned, method=network.encode)
        return jnp.asarray(code), model_state

    def respond(params: PyTree, model_state: PyTree, images: jax.Array) -> jax.Array:
        return behind(encode(params, model_state, images, train=False)[0])

    def init(key: Key) -> tuple[Params, PyTree]:
        params, model_state = split_variables(start.denoiser)
        encoder = {
            layer: leaves
            for layer, leaves in frozen["params"].items()
            if layer.startswith(("down", "code"))
        }
        return {"denoiser": params, "encoder": encoder}, model_state

    task = noisy_task(
        defense.examples,
        defense.batch_size,
        defense.sigma,
        init,
        prepared_loss(
            lambda p, s, x: encode(p, s, x, train=True), estimated_answers(behind, estimator)
        ),
        respond,
        defense.box,
    )
    prepare = lambda p, s, x: encode(p, s, x, train=False)
    at = lambda key: loss_of_an_image(task, behind, prepare, key)
    return Method(task, counted_first_order(estimator, network.latent), respond, at)


class Training(NamedTuple):
    """How a method trains.

    Attributes:
      make: ``(defense, start, estimator) -> Method``. The estimator is of the gradient of
        the parameters, or of the gradient at the box's, or the decoder's, input, image by
        image.
      estimator: ``(smoothing, num_directions, chunk_size) -> Estimator``, as published.
      queries: whether it asks the box and is trained for a number of queries.
      at_fraction: whether a step perturbs a fraction of every kernel.
      needs_code: whether it starts from an auto-encoder.
      at_boundary: whether ``boundary_directions`` is the number of its directions.
    """

    make: Callable[[Defense, Start, Estimator], Method]
    estimator: Callable[[float, int, int], Estimator]
    queries: bool = True
    at_fraction: bool = False
    needs_code: bool = False
    at_boundary: bool = False


def _deepzero(defense: Defense, start: Start, estimator: Estimator) -> Method:
    method = _at_image(defense, start, answers(defense.box), estimator)
    return method._replace(asked_at=lambda key: loss_of_parameters(method.task, key))


def _fo_ds(defense: Defense, start: Start, estimator: Estimator) -> Method:
    if defense.twin is None:
        raise ValueError(
            "fo_ds takes slopes of the classifier, and there is no white-box twin of it"
        )
    return _at_image(defense, start, answers(defense.twin), estimator)


def _zo_ds(defense: Defense, start: Start, estimator: Estimator) -> Method:
    pixels = int(jnp.size(defense.examples.images[0]))
    objective = estimated_answers(defense.box, estimator)
    method = _at_image(defense, start, objective, counted_first_order(estimator, pixels))
    return method._replace(asked_at=lambda key: loss_at_the_box(defense, method.task, key))


def _zo_boundary(defense: Defense, start: Start, estimator: Estimator) -> Method:
    shape, cosines = defense.examples.images.shape[1:], defense.cosines
    basis = None if cosines is None else cosine_basis(shape, cosines)
    behind = differentiable(defense.box, estimator, basis=basis)

    def objective(
        cleaned: jax.Array, clean: jax.Array, labels: jax.Array, key: Key
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        del clean
        return cross_entropy(behind(cleaned, key=key), labels)

    numbers = math.prod(cosines or shape)
    method = _at_image(defense, start, objective, counted_first_order(estimator, numbers))
    return method._replace(asked_at=lambda key: loss_at_the_box(defense, method.task, key))


def _coordinates(smoothing: float, num_directions: int, chunk_size: int) -> Estimator:
    del num_directions
    return cge(smoothing=smoothing, reuse="difference", batch_size=chunk_size)


def _coordinates_of_the_code(smoothing: float, num_directions: int, chunk_size: int) -> Estimator:
    del num_directions
    return cge(smoothing=smoothing, reuse="none", batch_size=chunk_size)


def _at_the_boundary(smoothing: float, num_directions: int, chunk_size: int) -> Estimator:
    if num_directions:
        return rge(smoothing=smoothing, num_directions=num_directions, batch_size=chunk_size)
    return cge(smoothing=smoothing, batch_size=chunk_size)


def _directions(smoothing: float, num_directions: int, chunk_size: int) -> Estimator:
    return rge(
        smoothing=smoothing, num_directions=num_directions, reuse="none", batch_size=chunk_size
    )


# None: trains nothing; ``untrained`` says how it answers.
METHODS: Registry[Training | None] = Registry(
    "method",
    {
        "deepzero": Training(_deepzero, _coordinates, at_fraction=True),
        "zo_ae_ds": Training(_at_code, _coordinates_of_the_code, needs_code=True),
        "zo_ds": Training(_zo_ds, _directions),
        "fo_ds": Training(_fo_ds, lambda *_: first_order(), queries=False),
        "none": None,
        # Behind the others, whose numbers are those of their random draws.
        "zo_boundary": Training(_zo_boundary, _at_the_boundary, at_boundary=True),
        "pretrained": None,
    },
)


def untrained(name: str, defense: Defense, start: Start) -> Callable[[jax.Array], jax.Array]:
    """How a method that trains nothing answers: "none", the bare box, or "pretrained"."""
    if name == "none":
        return defense.box
    return partial(defense.respond, *split_variables(start.denoiser))


def make_method(name: str, defense: Defense, start: Start, estimator: Estimator) -> Method:
    """Builds a trained defense.

    Args:
      name: one of ``METHODS`` that trains.
      defense: what all share.
      start: variables to start from.
      estimator: as in ``Training.make``.

    Raises:
      ValueError: an unknown method.
    """
    return present(METHODS, name).make(defense, start, estimator)


def default_estimator(
    name: str, smoothing: float, num_directions: int, chunk_size: int
) -> Estimator:
    """The estimator of a method, as published: coordinates, or directions for ``zo_ds``.

    Args:
      name: of the method.
      smoothing: μ, of parameters, pixels or code.
      num_directions: of ``zo_ds``.
      chunk_size: perturbed passes side by side; a box wants many in one call.
    """
    return present(METHODS, name).estimator(smoothing, num_directions, chunk_size)
