"""CFG rescale: guidance whose result has the standard deviation of the conditional prediction."""

from dataclasses import dataclass

_FUNCTIONS = "sampler_post_cfg_function"  # the key of these functions in a model's options


@dataclass(frozen=True)
class Rescale:
    """CFG rescale: Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023, section 3.4.

    Computed in v like core's RescaleCFG, but after CFG, so that other nodes' CFG functions keep working. `flow` says
    that v is a rectified flow's velocity.
    """

    amount: float
    flow: bool = False

    def __call__(self, args):
        sigma = args["sigma"].view(-1, *[1] * (args["input"].ndim - 1))
        size = 1 if self.flow else (sigma**2 + 1).sqrt()

        def v(denoised):
            return (args["input"] / size**2 - denoised) * size / sigma

        guided, conditional = v(args["denoised"]), v(args["cond_denoised"])
        axes = tuple(range(1, guided.ndim))
        rescaled = guided * (conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
        return args["input"] / size**2 - (self.amount * rescaled + (1 - self.amount) * guided) * sigma / size


def rescale_cfg(model, amount: float):
    """A copy of MODEL with CFG rescale; it acts once, with the largest amount of all calls."""
    from comfy.model_sampling import CONST

    model = model.clone()
    flow = isinstance(model.get_model_object("model_sampling"), CONST)
    before = model.model_options.get(_FUNCTIONS, [])
    amounts = [function.amount for function in before if isinstance(function, Rescale)]
    if not amounts:
        model.set_model_sampler_post_cfg_function(Rescale(amount, flow))
    elif amount > max(amounts):
        model.model_options[_FUNCTIONS] = [
            Rescale(amount, flow) if isinstance(function, Rescale) else function for function in before
        ]
    return model
