"""Batches against stand-ins for ComfyUI (tests/support/standin.py)."""

import asyncio

import pytest
from standin import StandIn


@pytest.fixture
def play():
    """Runs `scene(*servers)` with that many stand-ins up, within a time."""

    def play(scene, servers: int = 1, limit: float = 300):
        async def main():
            stand_ins = [StandIn() for _ in range(servers)]
            for stand_in in stand_ins:
                await stand_in.up()
            try:
                return await asyncio.wait_for(scene(*stand_ins), limit)
            finally:
                for stand_in in stand_ins:
                    await stand_in.down()

        return asyncio.run(main())

    return play
