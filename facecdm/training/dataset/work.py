"""Work split into shards; each shard is finished and saved as a whole."""

from collections.abc import Callable, Iterator, Sequence

SHARD = 128  # pictures per shard; a killed run loses at most one shard of a stage
BATCH = 8  # pictures or captions per call of an encoder

# Called with the name of the stage, the number of items done, and the total. An exception ends the preparation.
Progress = Callable[[str, int, int], None]


class Part(list):
    """The items of one shard.

    progress   called with the number of finished items
    """

    def __init__(self, items: Sequence, progress: Callable[[int], None]):
        super().__init__(items)
        self._progress, self._done = progress, 0

    def tick(self, done: int | None = None) -> None:
        """Report that `done` items are finished; without a number, report that the next item begins."""
        self._progress(self._done if done is None else done)
        self._done += 1

    def batches(self) -> Iterator[list]:
        for start in range(0, len(self), BATCH):
            self.tick(start)
            yield self[start : start + BATCH]


def shards(stage: str, items: Sequence, progress: Progress, group: Callable = lambda item: None) -> Iterator[Part]:
    """Split items, sorted by group, into runs of at most SHARD items of one group.

    A resumed run splits at the same items, so batches are bit-exactly the same in every run.
    """
    done = 0
    while done < len(items):
        part = items[done : done + SHARD]
        part = [item for item in part if group(item) == group(part[0])]
        yield Part(part, lambda count, before=done: progress(stage, before + count, len(items)))
        done += len(part)
    if items:
        progress(stage, len(items), len(items))
