"""The wrappers around ComfyUI's sampling that provide a Run and keep it up to date."""

from collections.abc import Callable

from .chunks import sampled_images
from .run import PEOPLE, ROWS, RUN, Run, run_of
from .tiles import TILES


def sample_with_run(executor: Callable, *args, **kwargs):
    """OUTER_SAMPLE wrapper: provide a Run for the duration of the sampling."""
    guider = executor.class_obj
    options = guider.model_options["transformer_options"]
    options[RUN] = Run(options[PEOPLE], guider)
    try:
        return executor(*args, **kwargs)
    finally:
        options.pop(RUN, None)


def prepare_step(executor: Callable, model, conds, x_in, timestep, model_options, *args, **kwargs):
    """CALC_COND_BATCH wrapper: compute keys and values for new prompts, and this step's gates."""
    options = model_options["transformer_options"]
    run = options.get(RUN)
    if run is None:  # a sampler that bypasses OUTER_SAMPLE
        run = Run(options[PEOPLE])
        model_options = {**model_options, "transformer_options": {**options, RUN: run}}
    images = sampled_images(options)
    run.step(model, conds, timestep, x_in, images)
    predicted = executor(model, conds, x_in, timestep, model_options, *args, **kwargs)
    run.keep_prediction(conds, predicted, timestep, images)
    return predicted


def apply_with_tiles(executor: Callable, x, t, c_concat=None, c_crossattn=None, control=None, *args, **kwargs):
    """APPLY_MODEL wrapper: find the tiles that the model is about to compute, if a pack samples in tiles."""
    options, rest = options_of(args, kwargs)
    run = run_of(options)
    if run is not None:
        options = {**options, ROWS: len(x)}
        tiles = run.tiles(x, options.get("uuids") or ())
        if tiles is not None:
            options[TILES] = tiles
    return executor(x, t, c_concat, c_crossattn, control, options, *rest, **kwargs)


def options_of(args: tuple, kwargs: dict) -> tuple[dict, tuple]:
    """The transformer_options among an APPLY_MODEL wrapper's last arguments, and the arguments that follow them."""
    options, *rest = args or (kwargs.pop("transformer_options", {}),)
    return options, tuple(rest)
