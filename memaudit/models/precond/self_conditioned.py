"""Networks that are also given an estimate of the clean images (Chen et al., arXiv:2208.04202)."""

from torch import Tensor

from memaudit.models.precond.discrete import DiscretePrecond


class SelfConditionedPrecond(DiscretePrecond):
    """A self-conditioned network at discrete noise levels, run twice for each.

    D(x; σ) = D(x; σ, ŷ) with ŷ = D(x; σ, 0), cut to [-1, 1]. In half of its training the network is
    given that estimate, in the other half zeros. The sampler it was made for gives it the estimate
    of the noise level before, which is the same in the limit of small steps.

    Args:
        As for `DiscretePrecond`; the network takes `self_cond`.
    """

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        **network_inputs: Tensor | None,
    ) -> Tensor:
        """Denoise; see `Preconditioner.forward`."""
        first = super().forward(x, sigma, class_labels, **network_inputs)
        # In the range of the network's data, which may be [0, 1].
        estimate = (1 - self.data_scale) + self.data_scale * first.clamp(-1, 1)
        return super().forward(x, sigma, class_labels, self_cond=estimate, **network_inputs)
