"""Guidance without its burn: CFG whose result has the spread of the prompt's own prediction."""


def rescale_cfg(model, amount: float):
    """A copy of MODEL: Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023, section 3.4.

    As core's RescaleCFG computes it, in v, but after CFG: other nodes' CFG functions stay.
    """

    def rescale(args):
        sigma = args["sigma"].view(-1, *[1] * (args["input"].ndim - 1))
        size = (sigma**2 + 1).sqrt()

        def v(denoised):
            return (args["input"] / size**2 - denoised) * size / sigma

        guided, own = v(args["denoised"]), v(args["cond_denoised"])
        over = tuple(range(1, own.ndim))
        even = guided * (own.std(over, keepdim=True) / guided.std(over, keepdim=True))
        return args["input"] / size**2 - (amount * even + (1 - amount) * guided) * sigma / size

    model = model.clone()
    model.set_model_sampler_post_cfg_function(rescale)
    return model
