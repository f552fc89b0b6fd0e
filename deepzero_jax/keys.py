"""Keys of any generator, as states that a checkpoint holds."""

import jax

from deepzero_jax.types import Key

_GENERATOR = "threefry2x32"


def threefry(key: Key) -> Key:
    """A key of threefry: ``key``, or one that takes the words of another generator's.

    Bits of other generators depend on what is drawn beside them, and on the backend.

    Example:
      >>> jax.random.key_impl(threefry(jax.random.key(0, impl="rbg")))
      'threefry2x32'
    """
    if jax.random.key_impl(key) == _GENERATOR:
        return key
    words = jax.random.key_data(key)
    start = jax.random.wrap_key_data(words[:2], impl=_GENERATOR)
    for word in words[2:]:
        start = jax.random.fold_in(start, word)
    return start


def words_of(key: Key) -> jax.Array:
    """What a state keeps of a key, whatever its generator: uint32 [2]."""
    return jax.random.key_data(threefry(key))


def key_of(words: jax.Array) -> Key:
    """The key that ``words_of`` made these words of."""
    return jax.random.wrap_key_data(words, impl=_GENERATOR)
