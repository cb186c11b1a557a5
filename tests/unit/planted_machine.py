"""A machine of known figures in the place of launches: what is calibrated on it, predicted, and measured."""

import argparse

import calibrations
import numpy as np

from ryzen_mpi.scaling import calibrate, trial
from ryzen_mpi.scaling.collective import Link, direct
from ryzen_mpi.scaling.simulate import traffic
from ryzen_mpi.settings import load_settings

CORES, NETWORK, OVERHEAD = 2, Link(2e-4, 2e-8), 2e-3
GRADIENT = traffic(load_settings("scaling_benchmark"), 1, 1)[0]


class Machine:
    """Two cores that answer as `probe` would; in the lab every rank is a host of its own and its network slow.

    `slower`: times as long as they should take steps of more ranks than two.
    """

    def __init__(self, lab=False, slower=1.0):
        self.lab, self.slower, self.random, self.asked = lab, slower, np.random.default_rng(3), []

    def probe(self, ranks, request, nodes, per_node, limit_s=0.0):
        self.asked.append((ranks, per_node))
        if ranks <= 2:
            answer = calibrations._answer(self.random, ranks, 0.05, 0.01, 0.01, 6, 3, OVERHEAD, (2e-5, 1e-9))
            answer["threads"] = request.threads
            return self.apart(answer) if self.lab and ranks == 2 else answer
        return {
            "cells": {
                f"together:{share}": {"turn_s": [self.slower * self.step(ranks, share)] * 4} for share in request.shares
            }
        }

    def apart(self, answer):
        rows = [{"bytes": n, "s": [direct(n, 2, NETWORK)] * 5} for n in (65536, 1 << 20, 8 << 20)]
        for share in calibrations.SHARES:
            answer["cells"][f"together:{share}"]["turn_s"] = [self.step(2, share)] * 6
        return answer | {"nodes": 2, "machines": 1, "collective": rows}

    def step(self, ranks, share):
        load = max(1.0, ranks / CORES) if self.lab else -(-ranks // CORES)
        usual = (0.02 + 0.01 * share) * load * (1 + 0.05 * (ranks - load) / load) * np.exp(0.01 * self.random.normal())
        return usual + OVERHEAD * load + (direct(GRADIENT, ranks, NETWORK) if self.lab else 1e-9 * GRADIENT * load)


def put_in_place(machine, monkeypatch):
    """From now on launches are answered by `machine`, which is returned."""
    monkeypatch.setattr(calibrate, "probe", machine.probe)
    monkeypatch.setattr(trial, "probe", machine.probe)
    monkeypatch.setattr(calibrate, "read_topology", lambda: argparse.Namespace(cores=[0] * CORES))
    return machine
