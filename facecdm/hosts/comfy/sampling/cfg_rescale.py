"""Guidance without its burn: CFG whose result has the spread of the prompt's own prediction."""

from dataclasses import dataclass

_FUNCTIONS = "sampler_post_cfg_function"  # where core keeps them in a model's options


@dataclass(frozen=True)
class Rescale:
    """Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023, section 3.4.

    As core's RescaleCFG computes it, in v, but after CFG: other nodes' CFG functions stay.
    """

    amount: float

    def __call__(self, args):
        sigma = args["sigma"].view(-1, *[1] * (args["input"].ndim - 1))
        size = (sigma**2 + 1).sqrt()

        def v(denoised):
            return (args["input"] / size**2 - denoised) * size / sigma

        guided, own = v(args["denoised"]), v(args["cond_denoised"])
        over = tuple(range(1, own.ndim))
        even = guided * (own.std(over, keepdim=True) / guided.std(over, keepdim=True))
        return args["input"] / size**2 - (self.amount * even + (1 - self.amount) * guided) * sigma / size


def rescale_cfg(model, amount: float):
    """A copy of MODEL that is rescaled once: of several people's amounts, by the largest."""
    model = model.clone()
    before = model.model_options.get(_FUNCTIONS, [])
    amounts = [function.amount for function in before if isinstance(function, Rescale)]
    if not amounts:
        model.set_model_sampler_post_cfg_function(Rescale(amount))
    elif amount > max(amounts):
        model.model_options[_FUNCTIONS] = [
            Rescale(amount) if isinstance(function, Rescale) else function for function in before
        ]
    return model
