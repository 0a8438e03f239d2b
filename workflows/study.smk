# The study: trains every method in each fold, samples, trains segmenters with the pairs, measures, and reports.
#
#     snakemake -s workflows/study.smk --cores 8 --resources gpu=1 --configfile study.yaml
#     snakemake -s workflows/study.smk --executor slurm --jobs 40 --configfile study.yaml
#
# The study file (docs/study.md explains it):
#
#     output: runs/study
#     dataset_dir: DATASET
#     methods: [DDPM, DDIM, LDM, SegGuidedDif, ControlNet, MAISI, PIG, PIG-MAISI, joint, two-step]
#     num_pairs: [512, 1024, 2048]  # pairs that segmenters are trained with
#     num_evaluated: 512            # slices of each method whose quality is measured
#     folds: [0, 1, 2, 3, 4]
#     seeds: [0, 1, 2]              # of the segmenters
#     seed: 0                       # of the generators and of sampling
#     presets: {pixels: fast, latents: maisi}
#     training: {batch_size: 8, max_iterations: 100000}    # further ids of guiders and generators, for all methods
#     autoencoder: {max_iterations: 50000}     # … of the autoencoder
#     sampling: {}                             # … of infer_pairs.yaml: which masks are rejected
#     segmentation: {image_size: 256}          # … of train.yaml
#     inception_weights: …                     # a file: distances by InceptionV3, too
#     dinov2_weights: …                        # a file: … by DINOv2
#     device: cuda
#     threads: 4                    # of a job
#     memory: 16000                 # MB that a job needs
#     minutes: 1440                 # that it may take
#     gpus: 1                       # of a job
#     python: …                     # that has pig-monai; Snakemake's own by default
#
# Whatever was stopped continues: give the same command again. Methods, folds, seeds and numbers of pairs may be
# added; for another budget take another output.

import hashlib
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from pig_monai.errors import PigError
from pig_monai.study import layout
from pig_monai.study.inputs import check_unchanged, outdate, record
from pig_monai.study.nodes import nodes
from pig_monai.study.settings import Study

PYTHON = str(config.get("python", sys.executable))
try:
    STUDY = Study.read(config)
    NODES = nodes(STUDY, PYTHON)
    if workflow.is_main_process:  # not in a cluster's jobs: it reads the whole dataset
        check_unchanged(STUDY, NODES)
        outdate(STUDY, NODES)
except PigError as error:
    raise WorkflowError(str(error))
THREADS = int(config.get("threads", 1))
FILE = STUDY.output / layout.STUDY


def mark(name):
    return f"{STUDY.output}/{layout.mark(name)}"


localrules:
    report,


# A report is of certain nodes: with others, the mark of the former says nothing. Snakemake alone would look no further
# than the report where it has no record of what was in it, as in another working directory.
REPORT = mark("report-" + hashlib.sha256("\n".join(node.name for node in NODES).encode()).hexdigest()[:8])


onstart:
    record(STUDY, NODES, config)
    for former in STUDY.output.glob(layout.mark("report-*")):  # report.html will not be of those nodes any more
        if former != Path(REPORT):
            former.unlink()


rule report:
    input:
        [mark(node.name) for node in NODES],
    output:
        touch(REPORT),
    params:
        command=shlex.join([PYTHON, "-m", "pig_monai.study", "--study", str(FILE)]),
    shell:
        "{params.command}"


for node in NODES:

    rule:
        name:
            node.name.replace("/", "_").replace("-", "_")
        input:
            [mark(name) for name in node.needs],
            [ancient(mark(name)) for name in node.grown],
        output:
            mark(node.name),
        log:
            f"{STUDY.output}/{layout.log(node.name)}",
        params:
            command=shlex.join(node.command),
            amount=node.amount,
        threads: THREADS
        resources:
            mem_mb=int(config.get("memory", 4000)),
            runtime=int(config.get("minutes", 1440)),
            gpu=int(config.get("gpus", 0)),
        shell:
            "OMP_NUM_THREADS={threads} {params.command} >> {log:q} 2>&1 && echo {params.amount} > {output:q}"
