"""All settings as typed models; where they come from is `settings.py`.

The keys are those of the documents behind the project. A model refuses unknown keys, wrong types and combinations that
cannot work; `settings.load_settings` turns a refusal into one readable error.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Paths = Annotated[
    tuple[str, ...],
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    ),
]


class Section(BaseModel):
    """A section: unknown keys are refused, values are never changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


class Distributed(Section):
    """How the ranks find and talk to one another."""

    backend: Literal["auto", "gloo", "mpi", "nccl"] = "auto"
    """Process-group backend; one that is not available is refused at start with those that are. `mpi` works with any
    PyTorch: it is PyTorch's own where that was built with MPI, else this package's. `auto` is `mpi` where MPI connects
    the ranks, `gloo` elsewhere."""
    init_method: Annotated[str, Field(pattern=r"^(auto|env://|tcp://[^\s/]+:\d+)$")] = "auto"
    """`auto`: rank 0 opens the store and tells the others over MPI. `env://` and `tcp://HOST:PORT` as in PyTorch."""
    master_addr: str | None = None
    """Address the store listens on; chosen from the shared interface when absent."""
    master_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the store; 0 lets the kernel choose a free one."""
    interface: str | None = None
    """Network interface for the collectives; chosen and shown when absent."""
    interfaces: Paths = ()
    """Several in order of preference, in place of `interface`: the first that works between all nodes is taken."""
    arena: bool = True
    """With backend mpi: gradients lie in memory the ranks of a node share, and are added up there without a copy."""
    compression: Literal["none", "bfloat16", "float16", "powersgd", "topk"] = "none"
    """Of gradients where they cross from node to node; inside a node nothing is compressed. `bfloat16`, `float16`
    (scaled by powers of two): half the bytes. `powersgd`: low rank; `topk`: the largest values; both send the rest
    later (error feedback, not part of checkpoints) and change what is learnt. Needs backend mpi and `arena`. With ZeRO,
    nodes with different numbers of ranks send uncompressed."""
    compression_rank: Positive = 4
    """Of the matrices that `powersgd` sends in place of a slice."""
    compression_share: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Of the values that `topk` sends."""
    timeout_s: PositiveFloat = 15.0
    """A collective that does not end in this time ends the job with an error."""
    min_processes: Positive = 1
    """Fewer processes than this are refused."""

    @model_validator(mode="after")
    def _one_way_to_name_interfaces(self) -> Distributed:
        if self.interface and self.interfaces:
            raise ValueError("interface and interfaces exclude one another: give one of them")
        return self

    @model_validator(mode="after")
    def _compression_knows_the_nodes(self) -> Distributed:
        if self.compression != "none" and not (self.arena and self.backend in ("auto", "mpi")):
            raise ValueError(
                f"compression={self.compression} needs backend mpi (or auto) and arena=true, which tell what crosses "
                f"from node to node; given: backend={self.backend}, arena={str(self.arena).lower()}"
            )
        return self


class Training(Section):
    """What a step is, how many there are, and what is kept of them."""

    batch_size: Positive = 16
    """Sequences in one micro-batch of one rank."""
    gradient_accumulation_steps: Positive = 1
    """Micro-batches a rank and step; ignored where `global_batch` is given."""
    global_batch: Positive | None = None
    """Sequences in a step over all ranks; default batch_size x gradient_accumulation_steps x ranks."""
    virtual_ranks: Positive = 1
    """Ranks that one process plays, one after the other: the arithmetic of as many real ranks of one node (backend mpi,
    stage 0), bit for bit, for debugging without MPI. Needs a world of one process."""
    learning_rate: PositiveFloat = 1e-3
    min_learning_rate_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate at the end of the cosine, as a share of `learning_rate`."""
    warmup_steps: NonNegative = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    optimizer: Literal["adam", "adamw"] = "adamw"
    weight_decay: NonNegativeFloat = 0.1
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    clip_norm: NonNegativeFloat = 1.0
    """Largest global L2 norm of the gradient; 0 leaves it as it is."""
    total_epochs: Positive = 1
    max_steps: Positive | None = None
    """Ends after this many steps, however many epochs are left; the schedule is fitted to it."""
    save_interval: Positive = 500
    log_interval: Positive = 50
    eval_interval: Positive = 500
    eval_samples: Positive = 256
    """Held-out sequences an evaluation looks at (fewer where the source has fewer)."""
    keep_checkpoints: Positive = 3
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1234


class Model(Section):
    """The transformer's shape."""

    vocab_size: Annotated[int, Field(ge=2, le=2**20)] = 256
    embedding_dim: Positive = 256
    num_heads: Positive = 4
    num_layers: Positive = 4
    feed_forward_dim: Positive = 1024
    seq_length: Annotated[int, Field(ge=2)] = 128
    dropout: Fraction = 0.0
    tied_head: bool = True
    """The output head shares the token embedding's weights."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Model:
        if self.embedding_dim % self.num_heads:
            divisors = [str(n) for n in range(1, self.embedding_dim + 1) if self.embedding_dim % n == 0][:16]
            raise ValueError(
                f"num_heads={self.num_heads} does not divide embedding_dim={self.embedding_dim}; "
                f"allowed: {', '.join(divisors)}"
            )
        return self


class Hardware(Section):
    """How the machine is used."""

    dtype: Literal["float32", "bfloat16", "float64", "auto"] = "float32"
    """Precision of the computation; weights and moments stay float32 under bfloat16. `auto`, when settings are loaded:
    bfloat16 where this processor has instructions for it, else float32, which is many times as fast there."""
    gradient_checkpoint: bool = False
    """Recompute a layer's activations in backward instead of keeping them."""
    zero_stage: Literal[0, 1, 2] = 0
    """0: every rank holds and updates everything. 1: master weights and moments are cut among the ranks; on a node the
    weights the model computes with are there once. 2: gradients too, summed up bucket by bucket during backward."""
    shared_folder: str = "/dev/shm"
    """Where the ranks of a node have the memory they share under `zero_stage` 1 and 2; a folder on a disk works too."""
    weights_per: Literal["node", "numa", "rank"] = "node"
    """Under `zero_stage` 1 and 2: one copy of the weights a node, one a NUMA domain its ranks run on, or one a rank."""
    max_seq_length: Annotated[int, Field(ge=2)] | None = None
    """Positions the model has room for; default `model.seq_length`."""
    attention: Literal["auto", "batched", "fused"] = "auto"
    """`batched`: plain batched matmuls; `fused`: PyTorch's; `auto`: the measured faster one for the length."""
    compile: bool = False
    """`torch.compile` the model (needs a C++ compiler; cached between runs)."""
    bind: Literal["auto", "none"] = "auto"
    """`auto` binds ranks to the cores of a NUMA domain where the launcher did not."""
    num_threads: Positive | None = None
    """Threads a rank; default the cores it is bound to."""


class Data(Section):
    """Where the tokens come from."""

    source: Literal["text", "random", "markov"] = "text"
    paths: Paths = ()
    """Text files or folders; empty: the source of the Python standard library this runs on."""
    pattern: str = "*"
    """Which files of a folder are taken."""
    tokenizer: Literal["bytes", "bpe"] = "bytes"
    held_out: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    """Share of the documents kept out of training."""
    num_samples: Positive = 320
    """Samples an epoch of the `random` and `markov` sources."""
    branching: Annotated[int, Field(ge=2)] = 4
    """Successors of a state of the `markov` source."""


Reaction = Literal["act", "warn", "off"]


class Rules(Section):
    """What the monitor's rules may do: `act`, only `warn`, or nothing. docs/monitor.md tells what each looks at."""

    finite: Reaction = "act"
    """A loss or gradient that is no number: the step is skipped."""
    spike: Reaction = "act"
    """A loss or gradient far above those before: the step is skipped."""
    divergence: Reaction = "act"
    """Several of these in a row: a lower learning rate, then back to a checkpoint and round that window of data."""
    sync: Reaction = "act"
    """Ranks whose weights differ: back to a checkpoint at which they did not."""
    straggler: Reaction = "act"
    """A rank that is slower than the others: named, with the likely cause."""
    memory: Reaction = "act"
    """Memory that runs short: smaller micro-batches at the same global batch, then save and stop."""
    heat: Reaction = "act"
    """Processors that slow down because of heat: fewer threads, or pauses, and back."""
    progress: Reaction = "act"
    """Steps that do not end, checkpoints that do not come: told."""
    network: Reaction = "act"
    """A node whose network loses packets: told."""


class Monitor(Section):
    """What is watched while training, who is shown it, and what may follow."""

    sample_s: PositiveFloat = 5.0
    """Seconds between two looks at the machine, and between two samples in metrics.h5."""
    prometheus_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Rank 0 serves /metrics here (0: a free port, shown at the start). `metrics.prom` is written in any case."""
    prometheus_address: str = "127.0.0.1"
    """Where it listens; anything but loopback is seen by all who reach the machine."""
    prometheus_targets: str | None = None
    """Folder where a file for Prometheus' file_sd is kept as long as the port is served."""
    tensorboard: bool = False
    """Curves, gradient histograms, model and settings for TensorBoard, in the run directory's `tensorboard/`."""
    log_bytes: Annotated[int, Field(ge=4096)] = 64 << 20
    """Size at which a file of `logs/` gives way to the next; the newest four of each are kept."""
    hash_interval: NonNegative = 100
    """Steps between two comparisons of the ranks' weights, and before every checkpoint; 0: never."""
    check_share: Annotated[float, Field(ge=0, le=0.1)] = 0.005
    """Share of the time that ring test, latency, bandwidth and synchronisation may be checked in; 0: never."""
    sensors: str = "/sys"
    """Where temperatures and throttling are read from."""
    rules: Rules = Rules()


class Settings(Section):
    """Everything a run depends on; `config.yaml` of the run directory holds it resolved."""

    distributed: Distributed = Distributed()
    training: Training = Training()
    model: Model = Model()
    hardware: Hardware = Hardware()
    data: Data = Data()
    monitor: Monitor = Monitor()

    @model_validator(mode="after")
    def _virtual_ranks_hold_everything(self) -> Settings:
        wrong = [f"hardware.zero_stage={self.hardware.zero_stage}"] if self.hardware.zero_stage else []
        if self.distributed.compression != "none":
            wrong.append(f"distributed.compression={self.distributed.compression}")
        if self.distributed.backend not in ("auto", "mpi"):
            wrong.append(f"distributed.backend={self.distributed.backend}")
        if self.training.virtual_ranks > 1 and wrong:
            raise ValueError(
                f"training.virtual_ranks={self.training.virtual_ranks} plays the ranks of one node over backend mpi, "
                f"stage 0 and uncompressed; given: {', '.join(wrong)}"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        room = self.hardware.max_seq_length
        if room is not None and room < self.model.seq_length:
            raise ValueError(f"hardware.max_seq_length={room} is below model.seq_length={self.model.seq_length}")
        if self.data.source == "text" and self.model.vocab_size > 65536:
            raise ValueError(f"model.vocab_size={self.model.vocab_size}: text sources allow at most 65536")
        if self.data.source == "text" and self.model.vocab_size < 257 - (self.data.tokenizer == "bytes"):
            raise ValueError(
                f"model.vocab_size={self.model.vocab_size}: the {self.data.tokenizer} tokenizer needs "
                f"at least {257 - (self.data.tokenizer == 'bytes')}"
            )
        if self.data.source == "markov" and self.data.branching > self.model.vocab_size:
            raise ValueError(f"data.branching={self.data.branching} exceeds model.vocab_size={self.model.vocab_size}")
        return self

    @property
    def max_positions(self) -> int:
        """Positions the model has room for."""
        return self.hardware.max_seq_length or self.model.seq_length

    def global_batch(self, ranks: int) -> int:
        """Sequences in one step over all `ranks` (processes)."""
        training, ranks = self.training, ranks * self.training.virtual_ranks
        return training.global_batch or training.batch_size * training.gradient_accumulation_steps * ranks
