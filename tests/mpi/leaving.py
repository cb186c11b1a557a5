"""Programs that end in every way a script may: with a group given back or not, work in flight, several groups."""

import sys

import torch
import torch.distributed as dist

from ryzen_mpi.comm import plugin


def without_a_word() -> None:
    dist.all_reduce(torch.ones(10))


def given_back() -> None:
    dist.all_reduce(torch.ones(10))
    dist.destroy_process_group()


def work_in_flight() -> None:
    for _ in range(20):
        dist.all_reduce(torch.ones(100_000), async_op=True)


def two_groups() -> None:
    groups = [dist.new_group(backend="ryzen") for _ in range(2)]
    for group in groups:
        dist.all_reduce(torch.ones(10), group=group)
    groups[0].arena(1 << 20).empty(10, torch.float32)
    dist.destroy_process_group(groups[1])


def given_back_and_made_again() -> None:
    dist.destroy_process_group(dist.new_group(backend="ryzen"))
    dist.all_reduce(torch.ones(10), group=dist.new_group(backend="ryzen"))
    dist.destroy_process_group()


def nothing_done() -> None:
    pass


def with_a_code() -> None:
    dist.all_reduce(torch.ones(10))
    dist.barrier()
    sys.exit(7)


def with_a_code_after_an_error() -> None:
    try:
        dist.all_reduce(torch.ones(10 + dist.get_rank()))
    except dist.DistBackendError:
        sys.exit(5)


if __name__ == "__main__":
    plugin.autoload()
    dist.init_process_group("ryzen")
    globals()[sys.argv[1]]()
