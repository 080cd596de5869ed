"""The mother in float64: held-out losses, weights and gradients against plain loops, MAML, finite differences."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from references import F64, NET, close, cross_entropy, mlp, sines
from sklearn.metrics import adjusted_rand_score

from metaexp.algos.maml import MAML
from metaexp.algos.mother import TINY, Mother
from metaexp.algos.mother_views import adjusted_rand
from metaexp.algos.views import Bars, Heatmap, Scatter
from metaexp.contract import finite_differences, new, parameters, pictures, rows, task
from metaexp.evaluation.scores import evaluate
from metaexp.inner import Adam
from metaexp.mapping import map_tasks
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP
from metaexp.tasks.linear import Linear as LinearTasks
from metaexp.tasks.sine import Sine

LR = 0.05


class TwoKinds(Sine):
    """Sines, and every task of an odd key a line of the same amplitude and phase: info["kind"]."""

    def sample(self, split, indices, shots=None, queries=None, ways=None):
        episode = super().sample(split, indices, shots, queries)
        kind = episode.key % 2
        slope, shift = (episode.info[name][:, None, None] for name in ("amplitude", "phase"))
        is_line = (kind == 1)[:, None, None]
        parts = [p._replace(y=torch.where(is_line, slope * p.x - shift, p.y)) for p in (episode.support, episode.query)]
        return episode._replace(support=parts[0], query=parts[1], info={"kind": kind})


def two_kinds(**settings):
    return TwoKinds(**{"shots": 6, "queries": 7} | settings).to("cpu", F64)


def mother(family=None, net=NET, **settings):
    return new(lambda f: Mother(f, net, **{"inner_lr": LR, "inner_steps": 2} | settings), family or sines())


def adapted(start, support, steps, loss=F.mse_loss, lr=LR):
    """Plain descent by torch.autograd, differentiable."""
    params = dict(start)
    for _ in range(steps):
        grads = torch.autograd.grad(loss(mlp(params, support.x), support.y), list(params.values()), create_graph=True)
        params = {k: p - lr * g for (k, p), g in zip(params.items(), grads, strict=True)}
    return params


def starts(learner):
    """Each child's parameters, as leaves."""
    return [{k: p.detach().clone().requires_grad_() for k, p in child.named_parameters()} for child in learner.model]


def plain_held_out(learner, start, support, steps, folds=None, loss=F.mse_loss):
    """One example after the other: the child that has not seen its fold."""
    n, total = len(support.x), 0.0
    for j in range(n):
        rest = [i for i in range(n) if i % (folds or n) != j % (folds or n)]
        params = adapted(start, rows(support, rest), steps, loss)
        total = total + loss(mlp(params, support.x[j : j + 1]), support.y[j : j + 1])
    return total / n


# --- held-out losses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folds", [None, 2, 3, 4, 50])
@pytest.mark.parametrize("mapping", ["vmap", "loop"])
def test_held_out_losses_equal_a_plain_loop(mapping, folds):
    learner = mother(children=2, folds=folds, mapping=mapping)
    batch = learner.family.sample("test", torch.arange(8))
    for i in range(8):
        one = task(batch, i)
        found = learner.held_out(one.support, one.key, LR, 2)
        assert found.shape == (2, 3)
        for steps in range(3):
            loop = [plain_held_out(learner, s, one.support, steps, min(folds or 6, 6)) for s in starts(learner)]
            close(found[:, steps], torch.stack(loop))


def test_held_out_losses_of_classes_equal_a_plain_loop():
    learner = mother(pictures(shots=2), children=2)
    one = task(learner.family.sample("test", torch.arange(1)), 0)
    flat = one.support._replace(x=one.support.x.flatten(1))
    loop = [plain_held_out(learner, s, flat, 2, loss=cross_entropy) for s in starts(learner)]
    close(learner.held_out(one.support, one.key, LR, 2)[:, 2], torch.stack(loop))


def test_what_holds_out_a_whole_class_does_not_count():
    """Two examples of one class, one of another: without the latter a child learns that there is no such class."""
    learner = mother(pictures(shots=2, ways=2), children=2)
    one = task(learner.family.sample("test", torch.arange(1)), 0)
    first, second = one.support.y.argmax(1) == 0, one.support.y.argmax(1) == 1
    some = rows(one.support, [*first.nonzero().flatten().tolist(), int(second.nonzero()[0])])
    flat = some._replace(x=some.x.flatten(1))
    expected = []
    for start in starts(learner):
        total = 0.0
        for j in (0, 1):
            params = adapted(start, rows(flat, [i for i in range(3) if i != j]), 2, cross_entropy)
            total = total + cross_entropy(mlp(params, flat.x[j : j + 1]), flat.y[j : j + 1])
        expected.append(total / 2)
    close(learner.held_out(some, one.key, LR, 2)[:, 2], torch.stack(expected))
    single = rows(one.support, [int(first.nonzero()[0]), int(second.nonzero()[0])])  # one shot: nothing is left
    assert (learner.held_out(single, one.key, LR, 2) == 1).all()


@pytest.mark.parametrize("settings", [{}, {"folds": 2}, {"weights": "uniform"}, {"select": "top1"}])
def test_without_any_support_example_she_answers_as_at_the_start(settings):
    learner = mother(children=3, **settings)
    one = task(learner.family.sample("test", torch.arange(1), shots=0), 0)
    assert (learner.held_out(one.support, one.key, LR, 2) == 1).all()
    with torch.no_grad():
        found = learner.adapt(one.support, one.key)
        answers = learner.answers(found["children"], one.query.x)
    close(answers, torch.stack([mlp(start, one.query.x) for start in starts(learner)]))
    assert found["weights"].sum() == pytest.approx(1)


def test_held_out_losses_see_the_child_that_overfits_and_support_losses_do_not():
    """Lines with noise: a wide child with many steps has the smaller support loss, the linear one generalises."""
    family = LinearTasks(shots=6, queries=100, inputs=1, noise=1.0).to("cpu", F64)
    own = [{"hidden": [20], "activation": "tanh"}, {"hidden": []}]
    learner = mother(family, MLP, children=2, overrides=own, inner_lr=0.1, inner_steps=50, inner=Adam())
    batch = family.sample("test", torch.arange(200))._replace(info={})

    def losses(one):
        point = learner._points(one.support, one.key, 0.1, 50, True, True)[0]
        both = [
            torch.stack([F.mse_loss(answer, part.y) for answer in learner.answers(point["children"], part.x)])
            for part in (one.support, one.query)
        ]
        return torch.stack((both[0], learner.held_out(one.support, one.key, 0.1, 50)[:, -1], both[1]))

    with torch.no_grad():
        on_support, held_out, on_queries = map_tasks(losses, batch, "vmap").unbind(1)  # [tasks, 2] each
    assert (on_support[:, 0] < on_support[:, 1]).double().mean() > 0.9  # by its support loss it would be taken
    assert on_queries[:, 0].mean() > 1.2 * on_queries[:, 1].mean()
    assert held_out[:, 0].mean() > 1.2 * held_out[:, 1].mean()
    right = (held_out.argmin(1) == on_queries.argmin(1)).double().mean()
    wrong = (on_support.argmin(1) == on_queries.argmin(1)).double().mean()
    assert right > wrong + 0.2
    assert (held_out - on_support).abs().min() > 1e-6


# --- one child --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"select": "top1"}, {"competition": 1.0}, {"weights": "uniform"}])
def test_a_mother_of_one_is_that_child_over_200_tasks(settings):
    inner = {"inner_lr": LR, "inner_steps": 2, "test_lr": 0.02, "test_steps": 3}
    family = sines(test={"queries": 9})
    learner = new(lambda f: Mother(f, NET, 1, **inner, **settings), family)
    maml = new(lambda f: MAML(f, NET, **inner), family)
    scores, expected = (evaluate(m, "test", 200, ["queries"]).arrays for m in (learner, maml))
    assert (scores["mse"] == expected["mse"]).all()
    assert (scores["child_0_mse"] == expected["mse"]).all()
    batch = family.sample("train", torch.arange(200))._replace(info={})
    gradient, value, logs = learner.meta_gradient(parameters(learner), batch)
    exact, loss, _ = maml.meta_gradient(parameters(maml), batch)
    close({k: gradient[k.replace("model.", "model.0.")] for k in exact}, exact)
    close(value - (0.1 * logs["judging"] if "judging" in logs else 0), loss)


def test_equal_weights_at_competition_1_are_mamls_trained_apart():
    learner = mother(children=3, weights="uniform", competition=1.0)
    batch = learner.train_batch(torch.arange(30))
    gradient, value, _ = learner.meta_gradient(parameters(learner), batch)
    total = 0.0
    for i, child in enumerate(learner.model):
        maml = MAML(learner.family, child, inner_lr=LR, inner_steps=2)
        exact, loss, _ = maml.meta_gradient(parameters(maml), batch)
        close({k: 3 * gradient[k.replace("model.", f"model.{i}.")] for k in exact}, exact)
        total += loss / 3
    close(value, total)
    assert not [name for name in learner.meta_parameters() if not name.startswith("model.")]


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_equal_the_formula_and_sum_to_one():
    learner = mother(two_kinds(), children=3, embedding=4)
    with torch.no_grad():
        learner.log_trust.copy_(torch.tensor([0.3, -0.7, -1.0]))
    a, b, c = learner.log_trust.exp()
    encoder, judges = learner.encoder, learner.judges
    batch = learner.family.sample("test", torch.arange(10))
    for i in range(10):
        one = task(batch, i)
        h = torch.stack([plain_held_out(learner, s, one.support, 2) for s in starts(learner)])
        inner = [torch.cat((x, y)) for x, y in zip(*one.support, strict=True)]
        e = encoder.head(sum(F.silu(encoder.second(F.silu(encoder.first(z)))) for z in inner) / 6)
        logits = []
        for k in range(3):
            z = torch.cat((e, torch.log(h[k] + TINY)[None]))
            judged = torch.tanh(z @ judges.weight[k] + judges.bias[k]) @ judges.head[k] + judges.shift[k]
            logits.append(-a * torch.log(h[k] + TINY) - b * judged - c * ((e - learner.keys[k]) ** 2).sum())
        weights = torch.stack(logits).exp() / torch.stack(logits).exp().sum()
        found = learner.adapt(one.support, one.key)
        close(found["weights"], weights)
        answers = [mlp(adapted(s, one.support, 2), one.query.x) for s in starts(learner)]
        close(learner.predict(found, one.query.x), sum(w * f for w, f in zip(weights, answers, strict=True)))


def test_weights_are_a_distribution_and_top1_is_its_largest_over_200_tasks():
    soft, hard = (mother(two_kinds(), children=3, select=select, inner_lr=0.1) for select in ("soft", "top1"))
    batch = soft.family.sample("test", torch.arange(200))._replace(info={})

    def look(learner, one):
        found = learner.adapt(one.support, one.key)
        answers = learner.answers(found["children"], one.query.x)
        return found["weights"], learner.predict(found, one.query.x), answers

    with torch.no_grad():
        weights, _, answers = map_tasks(partial(look, soft), batch, "vmap")
        one_hot, picked, _ = map_tasks(partial(look, hard), batch, "vmap")
    close(weights.sum(1), torch.ones(200, dtype=F64))
    assert weights.min() > 0
    assert torch.equal(one_hot, F.one_hot(weights.argmax(1), 3).to(F64))
    assert one_hot.sum(0).min() > 0  # every child is picked by some task
    close(picked, answers[torch.arange(200), weights.argmax(1)])
    few = soft.train_batch(torch.arange(5))._replace(info={})
    close(*(learner.meta_gradient(parameters(learner), few)[:2] for learner in (hard, soft)))  # trained alike


def test_before_the_support_set_is_seen_weights_are_equal():
    learner = mother(children=4)
    one = task(learner.family.sample("test", torch.arange(1)), 0)
    path = learner.path(one.support, one.key, 2)
    close(path[0]["weights"], torch.full((4,), 0.25, dtype=F64))
    close(path[2], learner.adapt(one.support, one.key))
    assert (path[1]["weights"] - 0.25).abs().max() > 1e-3


def test_a_child_that_diverged_has_weight_0_and_no_say():
    learner = mother(children=3)
    with torch.no_grad():
        learner.model[1].head.weight.fill_(1e200)
    batch = learner.family.sample("test", torch.arange(20))
    for i in range(20):
        one = task(batch, i)
        found = learner.adapt(one.support, one.key)
        assert not learner.answers(found["children"], one.query.x)[1].isfinite().all()
        assert found["weights"][1] == 0
        answers = learner.answers(found["children"], one.query.x)[[0, 2]]
        expected = (found["weights"][[0, 2], None, None] * answers).sum(0)
        close(learner.predict(found, one.query.x), expected)
        assert expected.isfinite().all()


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("competition", [0.0, 0.5, 1.0])
def test_with_second_feedback_against_finite_differences(competition):
    settings = {"second_feedback": True, "judging": 0.0, "competition": competition, "children": 2}
    for family in (two_kinds(), pictures()):
        learner = mother(family, **settings)
        assert finite_differences(learner, learner.train_batch(torch.arange(10))._replace(info={})) < 1e-6


def test_the_gradient_equals_a_plain_loop_with_held_out_losses_as_constants():
    learner = mother(two_kinds(), children=2, competition=0.3, judging=0.2, embedding=3)
    batch = learner.train_batch(torch.arange(5))
    own = starts(learner)
    rest = {k: p for k, p in learner.meta_parameters().items() if not k.startswith("model.")}
    total = 0.0
    for i in range(5):
        one = task(batch, i)
        h = torch.stack([plain_held_out(learner, s, one.support, 2).detach() for s in own])
        seen = learner.feedback(one.support, h)
        answers = [mlp(adapted(s, one.support, 2), one.query.x) for s in own]
        alone = torch.stack([F.mse_loss(f, one.query.y) for f in answers])
        blend = F.mse_loss(sum(w * f for w, f in zip(seen["weights"], answers, strict=True)), one.query.y)
        judged = ((seen["log_judged"] - torch.log(alone.detach() + TINY)) ** 2).mean()
        total = total + (0.7 * blend + 0.3 * (seen["weights"] * alone).sum() + 0.2 * judged) / 5
    names = [f"model.{i}.{k}" for i, s in enumerate(own) for k in s] + list(rest)
    exact = torch.autograd.grad(total, [p for s in own for p in s.values()] + list(rest.values()))
    gradient, value, _ = learner.meta_gradient(parameters(learner), batch._replace(info={}))
    close(value, total)
    assert set(names) == set(gradient)
    for name, g in zip(names, exact, strict=True):
        assert g.abs().max() > 1e-7, name
        assert (gradient[name] - g).abs().max() < 1e-10 * max(1.0, float(g.abs().max())), name


def test_no_child_is_bent_to_be_predictable():
    batch = two_kinds().sample("train", torch.arange(20))._replace(info={})
    without, with_it = (mother(two_kinds(), children=2, judging=judging) for judging in (0.0, 5.0))
    a, b = (learner.meta_gradient(parameters(learner), batch)[0] for learner in (without, with_it))
    for name, g in a.items():
        if name.startswith("model."):
            close(b[name], g)
    assert (b["judges.weight"] - a["judges.weight"]).abs().max() > 0.1


# --- views, errors ----------------------------------------------------------------------------------------------------


def test_views_and_diagnostics_hold_what_they_say():
    learner = mother(two_kinds(), children=3, test_steps=2)
    batch = learner.family.sample("val", torch.arange(12))
    views = learner.views(batch)
    found = [learner.adapt(task(batch, i).support, batch.key[i])["weights"] for i in range(12)]
    kind = batch.info["kind"]
    table = views["weights"]
    assert isinstance(table, Heatmap)
    assert table.row_names == ["0", "1"]
    close(table.values, torch.stack([torch.stack(found)[kind == k].mean(0) for k in (0, 1)]))
    first = torch.stack(found).argmax(1)
    assert isinstance(views["agreement"], Bars)
    assert list(views["agreement"].names) == ["mother", "held_out", "judged", "nearest", "best"]
    scored = adjusted_rand_score(kind.numpy(), first.numpy())
    assert float(views["agreement"].values[0]) == pytest.approx(scored, abs=1e-6)
    by_kind = views["kinds"]
    assert isinstance(by_kind, Scatter)
    close(by_kind.points, views["tasks"].points[:12])
    assert torch.equal(by_kind.colour, kind)
    assert f"{scored:.2f}" in by_kind.title
    judged, places = views["judgements"], views["tasks"]
    assert isinstance(judged, Scatter)
    assert judged.points.shape == (36, 2)
    one = task(batch, 1)
    children = learner.adapt(one.support, one.key)["children"]
    alone = [F.mse_loss(answer, one.query.y) for answer in learner.answers(children, one.query.x)]
    close(judged.points[3:6, 0], torch.log(torch.stack(alone) + TINY))
    assert places.points.shape == (15, 8)
    close(places.points[12:], learner.keys)
    assert list(places.kind) == ["task"] * 12 + ["key"] * 3
    numbers = learner.diagnostics(one)
    close(torch.stack([numbers[f"weight/{i}"] for i in range(3)]), found[1])
    close(numbers["weights_entropy"], -(found[1] * found[1].log()).sum())
    assert float(numbers["picks/mother"]) == float(found[1].argmax() == torch.stack(alone).argmin())
    plain = mother(children=2, weights="uniform")
    assert plain.views(batch) == plain.diagnostics(one) == {}


def test_the_adjusted_rand_index_equals_an_independent_implementation():
    random = torch.Generator().manual_seed(0)
    for parts, others, n in ((3, 6, 400), (2, 2, 7), (6, 6, 60), (1, 4, 30), (1, 1, 5), (30, 4, 30)):
        one = torch.randint(parts, (n,), generator=random) * 5 - 2  # any labels
        two = torch.randint(others, (n,), generator=random)
        assert adjusted_rand(one, two) == pytest.approx(adjusted_rand_score(one.numpy(), two.numpy()), abs=1e-12)
        assert adjusted_rand(one, one * 3 + 1) == 1.0
    independent = [adjusted_rand(torch.randint(3, (200,), generator=random), torch.arange(200) % 6) for _ in range(200)]
    assert abs(sum(independent) / 200) < 0.005


def test_scores_of_children_stand_beside_hers():
    learner = mother(two_kinds(), children=2, overrides=[{}, {"hidden": [3, 4]}])
    scores = evaluate(learner, "test", 20, ["queries"]).arrays
    assert set(scores) == {"mse", "uniform_mse", "top1_mse", "child_0_mse", "child_1_mse"}
    one = task(learner.family.sample("test", torch.tensor([7])), 0)
    alone = [F.mse_loss(mlp(adapted(s, one.support, 2), one.query.x), one.query.y) for s in starts(learner)]
    assert abs(scores["child_0_mse"][7, -1] - float(alone[0].detach())) < 1e-12
    assert abs(scores["child_1_mse"][7, -1] - float(alone[1].detach())) < 1e-12
    assert (
        scores["uniform_mse"][7, -1] < scores["child_0_mse"][7, -1] / 2 + scores["child_1_mse"][7, -1] / 2
    )  # convexity


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"children": 0}, "children=0: must be at least 1"),
        ({"overrides": [{}]}, "overrides=[{}]: must have one group of settings for each of 3"),
        ({"folds": 1}, "folds=1: must be a whole number, at least 2, or null for leave-one-out"),
        ({"select": "best"}, "select=best: must be soft or top1"),
        ({"weights": "equal"}, "weights=equal: must be learned or uniform"),
        ({"competition": 1.5}, "competition=1.5: must be from 0 to 1"),
        ({"judging": -0.1}, "judging=-0.1: must be at least 0"),
        ({"inner_lr": 0.0}, "inner_lr=0.0: must be above 0"),
        ({"embedding": 0}, "embedding=0: must be at least 1"),
        ({"model": Linear((1,), 1)}, "model: Mother makes several children"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(ValueError) as caught:
        Mother(sines(), **{"model": NET} | settings)
    assert str(caught.value).startswith(message)
