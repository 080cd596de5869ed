"""Conditional neural processes."""

from torch import Tensor

from metaexp.algos.neural_process import NeuralProcess
from metaexp.models.sets import means


class CNP(NeuralProcess):
    """Encode each support example, average, decode the average with each query; nothing is fitted to a task.

    "Conditional Neural Processes", Garnelo, Rosenbaum, Maddison, Ramalho, Saxton, Shanahan, Teh, Rezende, Eslami, 2018,
    section 2: r_i = h(x_i, y_i), r = r_1 + ... + r_n divided by n, (mu, sigma) = g(x, r), and the loss is the
    negative log-likelihood of the targets. The average over no example is 0. For classes r_c is the mean of h(x_i) over
    the class and logit_c = g(x, r_c, mean of all r_c); the paper joins the r_c in the order of the
    classes, which ties the network to their number and order. Settings are those of the authors' notebook.

    Further differences: the notebook's targets contain the context (`targets="both"`), and inputs may pass a network
    of their own before encoder and decoder (see `NeuralProcess`, which has the arguments).
    """

    def fit(self, z: Tensor, y: Tensor, key: Tensor) -> Tensor:
        """r, [sets, width]: one set for regression, one per class."""
        return means(self.encode(z, y), self.member(y))

    def read(self, adapted: Tensor, z: Tensor) -> Tensor:
        """[m, d] -> [m, 2 y_dim], means and deviations, or logits [m, ways]."""
        prediction: Tensor = self.decoder(adapted.expand(z.shape[0], -1, -1), z)
        return prediction
