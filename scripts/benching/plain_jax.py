"""python plain_jax.py: what `algo=maml task=sine steps=10000` does, as a plain JAX script with a validation and a test.

Needs JAX and optax alone. Prints one line of JSON: the mean squared error of the test and the seconds of its parts.
"""

import json
import time

BEGUN = time.perf_counter()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

STEPS, TASKS, SHOTS, QUERIES, HIDDEN, EVERY = 10_000, 25, 10, 10, 40, 1000
INNER_STEPS, INNER_LR, OUTER_LR, TEST_STEPS = 1, 0.01, 0.001, 10


def network(p, x):
    for w, b in p[:-1]:
        x = jax.nn.relu(x @ w + b)
    return x @ p[-1][0] + p[-1][1]


def loss(p, x, y):
    return jnp.mean((network(p, x) - y) ** 2)


def adapted(p, x, y, steps):
    for _ in range(steps):
        p = jax.tree.map(lambda w, g: w - INNER_LR * g, p, jax.grad(loss)(p, x, y))
    return p


def sample(key, tasks, queries):
    """Tasks: x, y of the support set, x, y of the queries."""
    a, b, c = jax.random.split(key, 3)
    amplitude = jax.random.uniform(a, (tasks, 1, 1), minval=0.1, maxval=5.0)
    phase = jax.random.uniform(b, (tasks, 1, 1), maxval=jnp.pi)
    x = jax.random.uniform(c, (tasks, SHOTS + queries, 1), minval=-5.0, maxval=5.0)
    y = amplitude * jnp.sin(x - phase)
    return x[:, :SHOTS], y[:, :SHOTS], x[:, SHOTS:], y[:, SHOTS:]


def objective(p, episodes, steps):
    one = lambda xs, ys, xq, yq: loss(adapted(p, xs, ys, steps), xq, yq)  # noqa: E731
    return jnp.mean(jax.vmap(one)(*episodes))


optimizer = optax.adam(OUTER_LR)


@jax.jit
def step(p, state, key):
    key, own = jax.random.split(key)
    value, gradient = jax.value_and_grad(objective)(p, sample(own, TASKS, QUERIES), INNER_STEPS)
    updates, state = optimizer.update(gradient, state, p)
    return optax.apply_updates(p, updates), state, key, value


@jax.jit
def tested(p, episodes):
    return objective(p, episodes, TEST_STEPS)


def main():
    """Trains, validates eleven times and tests once."""
    sizes = [1, HIDDEN, HIDDEN, 1]
    keys = jax.random.split(jax.random.key(0), len(sizes))
    p = []
    for k, m, n in zip(keys, sizes, sizes[1:], strict=False):  # torch's initial weights
        both = jax.random.uniform(k, (m + 1, n), minval=-(m**-0.5), maxval=m**-0.5)
        p.append((both[:m], both[m]))
    state, key = optimizer.init(p), keys[-1]
    validation, test = sample(jax.random.key(1), 200, 100), sample(jax.random.key(2), 1000, 100)
    times = {"import": time.perf_counter() - BEGUN}
    for index in range(STEPS):
        if index % EVERY == 0:
            float(tested(p, validation))
        p, state, key, value = step(p, state, key)
        if index == 0:
            value.block_until_ready()
            times["first step"] = time.perf_counter() - BEGUN
    float(tested(p, validation))
    mse = float(tested(p, test))
    print(json.dumps({"mse": mse, "seconds": time.perf_counter() - BEGUN, **times}))


main()
