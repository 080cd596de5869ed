"""Every method, in several forms, fulfils the contract of a learner on functions, pictures and vectors."""

from functools import partial

import pytest
from long_tier import long

from metaexp.algos.acnp import ACNP
from metaexp.algos.anil import ANIL
from metaexp.algos.boil import BOIL
from metaexp.algos.cavia import CAVIA
from metaexp.algos.cnp import CNP
from metaexp.algos.hypernet import HyperNet
from metaexp.algos.imaml import IMAML
from metaexp.algos.incontext import InContext
from metaexp.algos.joint import Joint
from metaexp.algos.l2l import L2L, LSTMRule
from metaexp.algos.maml import MAML
from metaexp.algos.mean import Mean
from metaexp.algos.metasgd import MetaSGD
from metaexp.algos.mother import Mother
from metaexp.algos.neighbour import Neighbour
from metaexp.algos.oracle import Oracle
from metaexp.algos.protonet import ProtoNet
from metaexp.algos.r2d2 import R2D2
from metaexp.algos.reptile import Reptile
from metaexp.algos.scratch import Scratch
from metaexp.contract import (
    check_learner,
    pictures,
)
from metaexp.inner import SGD, Adam
from metaexp.models.cnn4 import CNN4
from metaexp.models.mlp import MLP
from metaexp.tasks.sine import Sine

NET = partial(MLP, hidden=[6], activation="tanh")
CNN = partial(CNN4, filters=2, readout="flatten", norm="batch")
LEARNERS = {
    "maml": lambda f, net: MAML(f, net, inner_lr=0.05, inner_steps=2),
    "maml_momentum": lambda f, net: MAML(f, net, inner_lr=0.05, inner_steps=2, inner=SGD(0.9, nesterov=True)),
    "maml_adam": lambda f, net: MAML(f, net, inner_lr=0.01, inner_steps=3, inner=Adam()),
    "maml_head": lambda f, net: MAML(f, net, inner_lr=0.05, inner_steps=2, adapt=["head.*"]),
    "maml_checkpoint": lambda f, net: MAML(f, net, inner_lr=0.05, inner_steps=3, checkpoint=True),
    "fomaml": lambda f, net: MAML(f, net, inner_lr=0.05, inner_steps=2, first_order=True),
    "anil": lambda f, net: ANIL(f, net, inner_lr=0.05, inner_steps=2),
    "anil_running": lambda f, net: ANIL(f, net, inner_lr=0.05, inner_steps=2, normalise="running"),
    "boil": lambda f, net: BOIL(f, net, inner_lr=0.05, inner_steps=2),
    "metasgd": lambda f, net: MetaSGD(f, net, inner_steps=2),
    "r2d2": lambda f, net: R2D2(f, net),
    "cnp": lambda f, net: CNP(f, net, width=6, encoder_layers=2, decoder_layers=2),
    "cnp_both": lambda f, net: CNP(f, net, width=6, targets="both"),
    "acnp": lambda f, net: ACNP(f, net, width=6, heads=2),
    "acnp_residual": lambda f, net: ACNP(f, net, width=6, heads=2, residual=True),
    "hypernet": lambda f, net: HyperNet(f, net, encoder=[8, 8], generator=[8]),
    "incontext": lambda f, net: InContext(f, net, width=8, heads=2, layers=2),
    "l2l": lambda f, net: L2L(f, net, partial(LSTMRule, hidden=5), inner_steps=5, truncation=2),
    "l2l_query": lambda f, net: L2L(f, net, partial(LSTMRule, hidden=5), inner_steps=4, objective="query"),
    "mother": lambda f, net: Mother(f, net, inner_lr=0.05, inner_steps=2),
    "mother_folds": lambda f, net: Mother(f, net, inner_lr=0.05, folds=2, select="top1", second_feedback=True),
    "mother_mixed": lambda f, net: Mother(f, net, 2, [{}, {"hidden": []}], inner_lr=0.02, test_steps=3),
    "mother_uniform": lambda f, net: Mother(f, net, inner_lr=0.05, weights="uniform"),
    "cavia": lambda f, net: CAVIA(f, net, context_size=4, inner_steps=2),
    "cavia_first_order": lambda f, net: CAVIA(f, net, context_size=4, inner_lr=0.3, first_order=True),
    "imaml": lambda f, net: IMAML(f, net, inner_lr=0.05, inner_steps=5),
    "imaml_adam": lambda f, net: IMAML(f, net, inner_lr=0.05, inner_steps=5, inner=Adam(), damping=1.0),
    "reptile": lambda f, net: Reptile(f, net, inner_lr=0.02, inner_steps=4),
    "reptile_batches": lambda f, net: Reptile(f, net, inner_lr=0.02, inner_steps=4, inner_batch=2),
    "reptile_carried": lambda f, net: Reptile(f, net, 0.01, 4, 2, inner=Adam(beta1=0.0), state="carried"),
    "joint": lambda f, net: Joint(f, net, batch=3, test_epochs=3, test_lr=0.05),
    "scratch": lambda f, net: Scratch(f, net, test_epochs=3, test_lr=0.01, test_batch=2),
    "mean": lambda f, net: Mean(f),
    "neighbour": lambda f, net: Neighbour(f),
    "oracle": lambda f, net: Oracle(f),
}


CLASSIFIERS = {
    "protonet": lambda f, net: ProtoNet(f, net),
    "protonet_cosine": lambda f, net: ProtoNet(f, net, distance="cosine", scale=10.0, embedding=5),
    "protonet_batch": lambda f, net: ProtoNet(f, net, normalise="batch"),
    "r2d2_batch": lambda f, net: R2D2(f, net, normalise="batch"),
    "hypernet_batch": lambda f, net: HyperNet(f, net, encoder=[8, 8], generator=[8], normalise="batch"),
    "incontext_batch": lambda f, net: InContext(f, net, width=8, heads=2, layers=2, normalise="batch"),
    "mother_pictures": lambda f, net: Mother(f, net, children=2, inner_lr=0.05, folds=3),
}


@pytest.mark.parametrize("learner", LEARNERS)
def test_learner_on_sines(learner):
    check_learner(lambda f: LEARNERS[learner](f, NET), Sine(5, 4))


@pytest.mark.parametrize(
    "learner",
    long(
        ["maml", "maml_checkpoint", "fomaml", "cavia", "imaml", "reptile_batches"],
        {"maml_checkpoint", "fomaml", "imaml"},
    )
    + ["joint", "scratch", "mean", "neighbour"],
)
def test_learner_on_pictures(learner):
    check_learner(lambda f: LEARNERS[learner](f, CNN), pictures(side=17), tasks=40)


@pytest.mark.parametrize("learner", ["maml_adam", "cavia", "imaml", "reptile_carried", "joint"])
def test_learner_on_pictures_as_vectors(learner):
    check_learner(lambda f: LEARNERS[learner](f, NET), pictures(test={"shots": 3, "queries": 1}))


@pytest.mark.parametrize(
    "learner",
    long(
        [
            "anil",
            "anil_running",
            "boil",
            "metasgd",
            "r2d2",
            "cnp",
            "acnp",
            "hypernet",
            "incontext",
            "l2l",
            *CLASSIFIERS,
        ],
        {"boil", "metasgd", "l2l", "mother_pictures"},
    ),
)
def test_feature_learner_on_pictures(learner):
    cnn = partial(CNN, filters=3)  # two would both be dead before the running averages have begun
    check_learner(lambda f: (LEARNERS | CLASSIFIERS)[learner](f, cnn), pictures(side=17), tasks=40)


@pytest.mark.parametrize(
    "learner",
    long(
        ["metasgd", "r2d2", "cnp", "acnp", "hypernet", "incontext", "l2l", "mother", "protonet", "protonet_cosine"],
        {"l2l", "mother"},
    ),
)
def test_feature_learner_on_pictures_as_vectors(learner):
    ways = {} if learner in ("metasgd", "incontext", "l2l", "mother") else {"ways": 4}
    check_learner(lambda f: (LEARNERS | CLASSIFIERS)[learner](f, NET), pictures(test={"shots": 3} | ways))
