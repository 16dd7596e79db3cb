"""The layers of actors and critics that are plain MLPs, for code that calls the layers one by one."""

from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

ELEMENTWISE = (nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Identity)


def plain_layers(policy: ActorCriticPolicy, *, critic: bool = False) -> list[nn.Module] | None:
    """Return the layers of a policy's actor, or its critic, if they are a plain MLP on a vector; else None.

    A plain MLP has only linear layers and activations, and no module of the policy has hooks. The caller
    checks that the policy's own methods apply the layers as SB3's do.
    """
    space = policy.observation_space
    extractor = policy.vf_features_extractor if critic else policy.pi_features_extractor
    if not (
        isinstance(space, spaces.Box)
        and not is_image_space(space)
        and type(extractor) is FlattenExtractor
        and type(policy.mlp_extractor) is MlpExtractor
    ):
        return None
    hidden = policy.mlp_extractor.value_net if critic else policy.mlp_extractor.policy_net
    modules: list[nn.Module] = [*hidden, policy.value_net if critic else policy.action_net]
    if not all(type(module) in (nn.Linear, *ELEMENTWISE) for module in modules):
        return None
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in policy.modules())
    return None if hooked else modules
