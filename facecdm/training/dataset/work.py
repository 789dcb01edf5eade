"""Work in shards: each is finished and saved as a whole."""

from collections.abc import Callable, Iterator, Sequence

SHARD = 128  # pictures per shard: the most that a killed run loses of one stage
BATCH = 8  # pictures or captions per call of an encoder

# Called with the name of the stage, things done and things to do; what it raises ends the preparation.
Progress = Callable[[str, int, int], None]


class Part(list):
    """The items of one shard.

    progress   called with the number of its items that are done
    """

    def __init__(self, items: Sequence, progress: Callable[[int], None]):
        super().__init__(items)
        self._progress, self._done = progress, 0

    def tick(self, done: int | None = None) -> None:
        """Report that `done` of its items are done; without a number, that the next item begins."""
        self._progress(self._done if done is None else done)
        self._done += 1

    def batches(self) -> Iterator[list]:
        for start in range(0, len(self), BATCH):
            self.tick(start)
            yield self[start : start + BATCH]


def shards(stage: str, items: Sequence, progress: Progress, group: Callable = lambda item: None) -> Iterator[Part]:
    """Runs of at most SHARD items of one group, from items sorted by group.

    After an interruption the rest is cut at the same items, so that batches are equal in every run, to the bit.
    """
    done = 0
    while done < len(items):
        part = [item for item in items[done : done + SHARD] if group(item) == group(items[done])]
        yield Part(part, lambda count, before=done: progress(stage, before + count, len(items)))
        done += len(part)
    if items:
        progress(stage, len(items), len(items))
