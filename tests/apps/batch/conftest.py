"""Batches against stand-ins for ComfyUI (tests/support/standin.py)."""

import asyncio

import pytest
from standin import StandIn


@pytest.fixture
def run_scenario():
    """Runs `scene(*servers)` with that many stand-ins up, within a time."""

    def run_scenario(scenario, servers: int = 1, limit: float = 300):
        async def main():
            stand_ins = [StandIn() for _ in range(servers)]
            for stand_in in stand_ins:
                await stand_in.up()
            try:
                return await asyncio.wait_for(scenario(*stand_ins), limit)
            finally:
                for stand_in in stand_ins:
                    await stand_in.down()

        return asyncio.run(main())

    return run_scenario
