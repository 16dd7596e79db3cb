"""
Fisher pruning
==============

Which weights of a trained network can be removed? Setting a weight to 0 changes the outputs by a KL of about
½ w² F_ii nats, its *saliency*; the least salient go first. The magnitude of a weight depends on the units of
inputs and hidden layers. A policy and a digits classifier survive the most pruning if F chooses.

**Source**: Y. LeCun et al., *Optimal brain damage*, NIPS 1989; B. Hassibi, D. Stork, *Optimal brain
surgeon*, NIPS 1992; L. Theis et al., *Faster gaze prediction with dense networks and Fisher pruning*, 2018.

**Uses**: :class:`npg.DiagonalFisher`, :class:`npg.ExactFisher`, :class:`npg.Categorical`,
:class:`npg.DiagGaussian`.
"""

import os

import torch
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor, nn
from torch.func import functional_call

import npg
from agents import TRPO
from experiments.extras import needs

with needs("gallery"):
    import matplotlib.pyplot as plt
    from sklearn.datasets import load_digits


class Model(nn.Sequential):
    """A network whose outputs are logits, or, if it is linear, the means of Gaussians with σ = 1."""

    def forward(self, x: Tensor) -> npg.DiagGaussian | npg.Categorical:
        """Return the distribution of y."""
        outputs = super().forward(x)
        if len(self) == 1:
            return npg.DiagGaussian(outputs, torch.zeros_like(outputs))
        return npg.Categorical(outputs)


# %%
# In linear regression the KL is quadratic, and the saliencies are exact: ½ w² F_ii if a weight is set to 0,
# and ½ w² / [F⁻¹]_ii if the others are then fitted again.
torch.manual_seed(0)
x = torch.randn(200, 4).double() @ torch.randn(4, 4).double()
model = Model(nn.Linear(4, 1, bias=False)).double()
w, full = model[0].weight.detach().clone()[0], model(x).snapshot()
diagonal, inverse = npg.DiagonalFisher(model, x).diagonal, npg.ExactFisher(model, x).to_dense().inverse()
for i in range(4):
    others = [j for j in range(4) if j != i]
    refitted = torch.linalg.lstsq(x[:, others], full.mean).solution
    for mean, saliency in (
        (x[:, others] @ w[others, None], diagonal[i] / 2 * w[i] ** 2),
        (x[:, others] @ refitted, w[i] ** 2 / (2 * inverse[i, i])),
    ):
        kl = full.kl(npg.DiagGaussian(mean, torch.zeros_like(mean))).mean()
        assert torch.allclose(kl, saliency, rtol=1e-10)

# %%
# Two trained networks: a classifier of digits, and the policy of a TRPO agent, with the states that it
# visits.
digits, order = load_digits(), torch.randperm(1797)
images, labels = torch.tensor(digits.data / 16).float()[order], torch.tensor(digits.target)[order]
classifier = Model(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(classifier.parameters(), lr=0.01)
for _ in range(200):
    optimizer.zero_grad()
    (-classifier(images[:1200]).log_prob(labels[:1200]).mean()).backward()
    optimizer.step()
agent = TRPO("MlpPolicy", make_vec_env("CartPole-v1", 16, seed=0), n_steps=128, seed=0)
agent.learn(8_000 if "GALLERY_SMALL" in os.environ else 40_000)
policy = Model(*agent.policy.mlp_extractor.policy_net, agent.policy.action_net)
states = torch.as_tensor(agent.rollout_buffer.observations).reshape(-1, 4)[torch.randperm(2048)]

# %%
# Prune from 0 to 100 % of the weights. F is that of some inputs, the KL is measured on others.
shares = torch.linspace(0, 1, 41)[1:]


def curves(model: Model, x: Tensor, x_test: Tensor) -> dict[str, list[float]]:
    """Return {criterion: KL from the full network to the pruned ones}."""
    parameters, full = npg.FlatParameters(model), model(x_test).snapshot()
    weights = parameters.vector()
    saliency = npg.DiagonalFisher(model, x).diagonal * weights.square() / 2
    scores = {"F: ½ w² F_ii": saliency, "magnitude": weights.abs(), "random": torch.rand(len(weights))}
    found = {name: [] for name in scores}
    for name, score in scores.items():
        for share in shares:
            removed = score.argsort().argsort() < share * len(weights)
            pruned = functional_call(model, parameters.displaced(-weights * removed), (x_test,))
            found[name].append(full.kl(pruned).mean().item())
    return found


results = {
    "digits classifier": curves(classifier, images[:1200], images[1200:]),
    "CartPole policy": curves(policy, states[:1024], states[1024:]),
}
for found in results.values():
    fisher, magnitude, chance = (sum(kls[:29]) for kls in found.values())
    assert fisher < 0.5 * magnitude < 0.5 * chance

# %%
# Pruned by F, 60 % of the classifier's weights and 90 % of the policy's cost less than 0.1 nats.
figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for axes, (name, found) in zip(panels, results.items(), strict=True):
    for criterion, kls in found.items():
        axes.semilogy(100 * shares, kls, label=criterion)
    axes.set(title=name, xlabel="weights removed (%)", ylabel="KL from the full network (nats)", ylim=1e-6)
panels[1].legend()
figure.savefig(os.environ.get("GALLERY_OUT", "fisher_pruning.png"), dpi=150)
