# %% [markdown]
# # An endpoint with a budget
#
# A classifier stands behind an HTTP endpoint that answers with probabilities and charges for
# every sample. Pictures from a badly adjusted camera reach it, and a small correction in front of
# it shall be trained. The budget ends in the middle, and the training goes on where it stopped.

# %%
import json
import tempfile
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import uvicorn
from fastapi import FastAPI
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import deepzero_jax as dz

# %% [markdown]
# ## The other side
#
# So that this page runs by itself, it starts a server of its own, on this machine. Everything
# that is known about it below is its address: it is posted `{"inputs": [[…], …]}` and answers
# `{"outputs": [[…], …]}`, the "plain" protocol.

# %%
digits = load_digits()
images, labels = digits.data / 16, digits.target
classifier = LogisticRegression(max_iter=2000).fit(images[:1000], labels[:1000])
app = FastAPI()


@app.post("/predict")
def predict(body: dict[str, list[list[float]]]) -> dict[str, list[list[float]]]:
    """Pictures [n, 64] to probabilities [n, 10]."""
    return {"outputs": classifier.predict_proba(np.asarray(body["inputs"])).tolist()}


server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
threading.Thread(target=server.run, daemon=True).start()
while not server.started:
    time.sleep(0.05)
port = server.servers[0].sockets[0].getsockname()[1]
url = f"http://127.0.0.1:{port}/predict"

# %% [markdown]
# ## The box
#
# At most 512 samples a call, a deadline for the whole answer, two more attempts for what fails,
# and a budget: a call that would overrun it is not sent. JSON keeps all digits of a float64, so
# the answers are taken as such.

# %%
NUM_STEPS, BATCH = 60, 64
endpoint = dz.blackbox.http_endpoint(url, "plain", timeout=10)
budget = {"first": NUM_STEPS * BATCH * 6, "then": NUM_STEPS * BATCH * 20}


def make_box(budget):
    """The endpoint as a function of JAX."""
    return dz.black_box(
        endpoint, (10,), dtype="float64", max_batch=512, retries=2, backoff=0.1, budget=budget
    )


box = make_box(budget["first"])

# %% [markdown]
# ## The correction
#
# A gain, an offset and a 3 × 3 filter: 11 parameters, fewer than the 64 inputs of the endpoint,
# so here it is cheaper to ask at the parameters (12 queries a step) than at the boundary (65).

# %%
spoilt = jnp.asarray(0.35 * images.reshape(-1, 8, 8) + 0.4, jnp.float32)
spoilt = spoilt + 0.25 * jnp.roll(spoilt, 1, axis=2)  # too bright, too flat, smeared
train, test = np.arange(1000, 1400), np.arange(1400, 1797)


def correct(params, pictures):
    """Pictures [n, 8, 8] to what is sent, [n, 64]."""
    padded = jnp.pad(pictures, ((0, 0), (1, 1), (1, 1)), mode="edge")
    shifts = [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    filtered = sum(w * s for w, s in zip(params["filter"], shifts, strict=True))
    return (params["gain"] * filtered + params["offset"]).reshape(-1, 64)


def loss(params, box, pictures, labels):
    """Cross-entropy of the answers."""
    probabilities = box(correct(params, pictures))
    return -jnp.mean(jnp.log(probabilities[jnp.arange(len(labels)), labels] + 1e-6))


def accuracy(params):
    """On pictures that were not trained on; asked beside the box, so not charged."""
    sent = np.asarray(correct(params, spoilt[test]), np.float64)
    return 100 * np.mean(classifier.predict(sent) == labels[test])


params = {"filter": jnp.zeros(9).at[4].set(1.0), "gain": jnp.ones(()), "offset": jnp.zeros(())}
print(f"accuracy without a correction: {accuracy(params):.1f} %")

# %% [markdown]
# ## Training, until the budget ends
#
# After each step the counts of the box are written down. When the budget does not hold the next
# call, the box raises `dz.BlackBoxError` in its place. A step of several calls (of the base, and
# of the moved parameters) may have sent some of them by then: they are charged, so the counts are
# written down then too, and the step is asked again from its start.
# Inside `jit`, JAX wraps that error in one of its own, which `box_errors` takes off.

# %%
optimizer = optax.adam(0.05)
saved = Path(tempfile.mkdtemp()) / "training.json"


def train_with(box, start):
    """Steps from a saved state on, as many as the budget holds."""
    params, state, first = start
    vg = dz.value_and_grad(lambda p, x, y: loss(p, box, x, y), dz.cge(smoothing=1e-3))
    vg = jax.jit(vg)
    for i in range(first, NUM_STEPS):
        batch = np.random.default_rng(i).choice(train, BATCH, replace=False)
        try:
            with dz.blackbox.box_errors():
                value, grads = jax.block_until_ready(vg(params, spoilt[batch], labels[batch]))
        except dz.BlackBoxError as error:
            print(f"step {i}: {error}")
            saved.write_text(json.dumps({"box": box.counts(), "next_step": i}))
            return params, state, i
        updates, state = optimizer.update(grads, state)
        params = optax.apply_updates(params, updates)
        saved.write_text(json.dumps({"box": box.counts(), "next_step": i + 1}))
        if i % 15 == 0:
            print(f"step {i:2}  loss {value:.3f}")
    return params, state, NUM_STEPS


stopped = train_with(box, (params, optimizer.init(params), 0))
print(f"accuracy so far: {accuracy(stopped[0]):.1f} %")

# %% [markdown]
# ## Going on
#
# A new box with a larger budget takes over the counts: what was charged stays charged. (The
# trainer of the programs does all of this by itself, see [resume](../howto/resume.md).)

# %%
box = make_box(budget["then"])
box.restore(json.loads(saved.read_text())["box"])
params, _, _ = train_with(box, stopped)
print(f"accuracy in the end: {accuracy(params):.1f} %")
print(box)

# %%
endpoint.close()
server.should_exit = True
