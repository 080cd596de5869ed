"""python scripts/acting/in_jax.py WORLD TRIALS STEPS REPEATS: RL^2's loop in JAX; prints a line of JSON.

The same worlds, network, trials and updates as `algo=rl2` has: a GRU of 64, PPO with 3 epochs of 4 minibatches, Adam,
advantages over whole trials. Written as gymnax and purejaxrl do: the world is a pure function, `lax.scan` runs over the
steps and `vmap` over the tasks, one outer step is one jitted function. Needs only jax.
"""

import json
import os
import sys
import time

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["OMP_NUM_THREADS"] = "1"

import jax
import jax.numpy as jnp

HIDDEN, EPOCHS, MINIBATCHES = 64, 3, 4
DISCOUNT, SMOOTHING, RATIO, ENTROPY, CRITIC, RATE, NORM = 1.0, 0.9, 0.2, 0.01, 0.5, 0.01, 1.0


def bandit(arms=5):
    """(x, actions, horizon, draw, reset, step) of coins; a step gives state, observation, reward, whether it ends."""

    def step(task, state, action, key):
        return state, jnp.zeros(1), (jax.random.uniform(key) < task[action]).astype(jnp.float32), False

    return 1, arms, None, lambda key: jax.random.uniform(key, (arms,)), lambda _: (jnp.int32(0), jnp.zeros(1)), step


def mdp(states=10, actions=5, horizon=10):
    """The same of random tabular MDPs."""

    def draw(key):
        one, two = jax.random.split(key)
        p = jax.random.exponential(two, (states, actions, states))
        return 1 + jax.random.normal(one, (states, actions)), p / p.sum(-1, keepdims=True)

    def step(task, state, action, key):
        one, two = jax.random.split(key)
        reward = task[0][state, action] + jax.random.normal(one)
        after = (jnp.cumsum(task[1][state, action])[:-1] <= jax.random.uniform(two)).sum()
        return after.astype(jnp.int32), jax.nn.one_hot(after, states), reward, False

    return states, actions, horizon, draw, lambda task: (jnp.int32(0), jax.nn.one_hot(0, states)), step


def grid(side=5, walls=8, horizon=20):
    """The same of small grids with one key, walls and a goal."""
    row, column = jnp.arange(side**2) // side, jnp.arange(side**2) % side
    moves = jnp.array([(-1, 0), (1, 0), (0, -1), (0, 1)])

    def way(a, b, row_first):
        (ra, ca), (rb, cb) = (a // side, a % side), (b // side, b % side)
        turn_row, turn_column = jnp.where(row_first, ra, rb), jnp.where(row_first, cb, ca)
        along_row = (row == turn_row) & (jnp.minimum(ca, cb) <= column) & (column <= jnp.maximum(ca, cb))
        return along_row | ((column == turn_column) & (jnp.minimum(ra, rb) <= row) & (row <= jnp.maximum(ra, rb)))

    def draw(key):
        one, two, three = jax.random.split(key, 3)
        start, lies, goal = jnp.argsort(jax.random.uniform(one, (side**2,)))[:3]
        first = jax.random.bernoulli(two, shape=(2,))
        free = way(start, lies, first[0]) | way(lies, goal, first[1])
        rank = jnp.argsort(jnp.argsort(jax.random.uniform(three, (side**2,))))
        return start, lies, goal, (rank < walls) & ~free

    def seen(cell, held):
        return jnp.append(jax.nn.one_hot(cell, side**2), held.astype(jnp.float32))

    def reset(task):
        return (task[0], jnp.bool_(False)), seen(task[0], jnp.bool_(False))

    def step(task, state, action, key):
        (_, lies, goal, wall), (cell, held) = task, state
        r, c = cell // side + moves[action, 0], cell % side + moves[action, 1]
        there = jnp.clip(r * side + c, 0, side**2 - 1)
        stays = (r < 0) | (r >= side) | (c < 0) | (c >= side) | wall[there]
        cell = jnp.where(stays, cell, there)
        now = held | (cell == lies)
        done = (cell == goal) & now
        return (cell, now), seen(cell, now), 1.0 * done + 0.2 * (now & ~held) - 0.02, done

    return side**2 + 1, 4, horizon, draw, reset, step


WORLDS = {"bandit": bandit, "mdp": mdp, "grid": grid}


def initial(key, inputs, actions):
    """Parameters."""
    keys = jax.random.split(key, 4)
    bound = HIDDEN**-0.5
    wide = lambda k, shape: jax.random.uniform(k, shape, minval=-bound, maxval=bound)  # noqa: E731
    return {"wi": wide(keys[0], (inputs, 3 * HIDDEN)), "wh": wide(keys[1], (HIDDEN, 3 * HIDDEN)),
            "bi": jnp.zeros(3 * HIDDEN), "bh": jnp.zeros(3 * HIDDEN), "wp": 0.1 * wide(keys[2], (HIDDEN, actions)),
            "bp": jnp.zeros(actions), "wv": wide(keys[3], (HIDDEN, 1)), "bv": jnp.zeros(1)}  # fmt: skip


def cell(p, x, h):
    """One step of the GRU."""
    into, kept = x @ p["wi"] + p["bi"], h @ p["wh"] + p["bh"]
    (ir, iz, into), (hr, hz, kept) = jnp.split(into, 3, -1), jnp.split(kept, 3, -1)
    update = jax.nn.sigmoid(iz + hz)
    new = jnp.tanh(into + jax.nn.sigmoid(ir + hr) * kept)
    return new + update * (h - new)


def make(world, trials, steps):
    """(initial state, outer step, random steps) of a world."""
    x, actions, horizon, draw, reset, step = WORLDS[world]()
    inputs = x + actions + 2

    def collect(p, key):
        keys = jax.random.split(key, trials)
        task = jax.vmap(draw)(keys)

        def one(carry, t):
            state, seen, action, reward, h, alive = carry
            begins = (t % horizon == 0) if horizon else t == 0
            fresh = jax.vmap(reset)(task)
            state, seen = jax.tree.map(
                lambda a, b: jnp.where(jnp.reshape(begins, (1,) * a.ndim), a, b), fresh, (state, seen)
            )
            alive = alive | begins
            first = jnp.full((trials, 1), begins, jnp.float32)
            told = jnp.concatenate((seen, jax.nn.one_hot(action, actions), reward[:, None], first), -1)
            h = cell(p, told, h)
            logits, value = h @ p["wp"] + p["bp"], (h @ p["wv"] + p["bv"])[:, 0]
            k = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
            action = jax.vmap(jax.random.categorical)(k, logits)
            log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], 1)[:, 0]
            k = jax.vmap(jax.random.fold_in, (0, None))(k, 1)
            then, after, reward, done = jax.vmap(step)(task, state, action, k)
            state, after = jax.tree.map(  # what has ended idles to the end of the episode
                lambda new, old: jnp.where(alive.reshape(-1, *(1,) * (new.ndim - 1)), new, old),
                (then, after),
                (state, seen),
            )
            reward = jnp.where(alive, reward, 0.0)
            return (state, after, action, reward, h, alive & ~done), (told, action, log_p, value, reward, alive)

        state, seen = jax.vmap(reset)(task)
        carry = (state, seen, jnp.zeros(trials, jnp.int32), jnp.zeros(trials), jnp.zeros((trials, HIDDEN)))
        carry += (jnp.ones(trials, bool),)
        return jax.lax.scan(one, carry, jnp.arange(steps))[1]  # [steps, trials, ...] each

    def loss(p, batch):
        told, action, old, advantage, target, weight, unit = batch

        def one(h, row):
            h = cell(p, row, h)
            return h, h

        h = jax.lax.scan(one, jnp.zeros((told.shape[1], HIDDEN)), told)[1]
        logits = jax.nn.log_softmax(h @ p["wp"] + p["bp"])
        value = (h @ p["wv"] + p["bv"])[..., 0]
        moved = jnp.exp(jnp.take_along_axis(logits, action[..., None], -1)[..., 0] - old)
        gain = jnp.minimum(moved * advantage, jnp.clip(moved, 1 - RATIO, 1 + RATIO) * advantage)
        entropy = -(jnp.exp(logits) * logits).sum(-1)
        return (weight * (CRITIC * (value - target) ** 2 / unit - gain - ENTROPY * entropy)).sum(0).mean()

    def outer(state, key):
        p, mean, square, count = state
        told, action, old, value, reward, alive = collect(p, key)

        def back(carry, row):
            advantage, following = carry
            r, v, lives = row
            made = r + DISCOUNT * following - v + DISCOUNT * SMOOTHING * advantage
            return (jnp.where(lives, made, advantage), jnp.where(lives, v, following)), jnp.where(lives, made, 0.0)

        nothing = jnp.zeros(trials)
        advantage = jax.lax.scan(back, (nothing, nothing), (reward, value, alive), reverse=True)[1]
        weight = alive / alive.sum(0).mean()
        target, share = advantage + value, weight / trials
        unit = (share * (target - (share * target).sum()) ** 2).sum()
        advantage = advantage - (share * advantage).sum()
        advantage = advantage / jnp.maximum(jnp.sqrt((share * advantage**2).sum()), 1e-8)

        def update(state, rows):
            p, mean, square, count = state
            batch = [leaf[:, rows] for leaf in (told, action, old, advantage, target, weight)]
            grads = jax.grad(loss)(p, (*batch, unit))
            size = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
            grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, NORM / (size + 1e-6)), grads)
            count = count + 1
            mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, grads)
            square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, square, grads)
            right = jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
            p = jax.tree.map(lambda w, m, s: w - RATE * right * m / (jnp.sqrt(s) + 1e-8), p, mean, square)
            return (p, mean, square, count), None

        orders = [jax.random.permutation(jax.random.fold_in(key, e), trials) for e in range(EPOCHS)]
        state, _ = jax.lax.scan(update, (p, mean, square, count), jnp.stack(orders).reshape(EPOCHS * MINIBATCHES, -1))
        return state, reward.sum(0).mean()

    p = initial(jax.random.key(0), inputs, actions)
    zeros = jax.tree.map(jnp.zeros_like, p)
    return (p, zeros, zeros, jnp.float32(0)), jax.jit(outer), jax.jit(lambda p, key: collect(p, key)[-2])


def main(world, trials, steps, repeats):
    """Measure."""
    state, outer, collect = make(world, trials, steps)
    began = time.process_time()
    state, gained = jax.block_until_ready(outer(state, jax.random.key(1)))
    jax.block_until_ready(collect(state[0], jax.random.key(1)))
    compiling, returns, spent = time.process_time() - began, [float(gained)], {}
    for name in ("train", "act"):
        began = time.process_time()
        for i in range(repeats):
            if name == "train":
                state, gained = jax.block_until_ready(outer(state, jax.random.key(2 + i)))
                returns.append(float(gained))
            else:
                jax.block_until_ready(collect(state[0], jax.random.key(2 + i)))
        spent[name] = (time.process_time() - began) / repeats
    rates = {name: trials * steps / seconds for name, seconds in spent.items()}
    print(json.dumps({"rates": rates, "compile": compiling, "returns": returns, "version": f"jax {jax.__version__}"}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
