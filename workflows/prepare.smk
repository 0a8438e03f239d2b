# Prepares a dataset in shards, on this machine or on a cluster's nodes, and merges them.
#
#     snakemake -s workflows/prepare.smk --cores 8 --configfile prepare.yaml
#     snakemake -s workflows/prepare.smk --executor slurm --jobs 40 --configfile prepare.yaml
#
# The configuration (prepare.yaml, or --config name=value …):
#
#     output: DATASET               # the dataset folder
#     key: DATASET.key              # secret of the case hashes; made where absent
#     shards: 40                    # jobs
#     options:                      # those of the command, as it takes them
#       input: DICOM
#       masks: MASKS
#       size: 512
#     command: dicom_to_slices      # or images_to_slices
#     workers: 4                    # processes of a job
#     memory: 2000                  # MB that a worker needs
#     minutes: 240                  # that a job may take
#     parts: DATASET.shards         # folder of the shards
#     python: …                     # that has pig-monai; Snakemake's own by default
#
# Whatever was stopped continues: give the same command again. For added data, too, with --forceall.

import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

KNOWN = {"output", "key", "shards", "options", "command", "workers", "memory", "minutes", "parts", "python"}
OWN = {"output", "key", "workers", "shard", "merge", "dry_run", "overwrite"}  # what the rules give, or Snakemake does
OF_ALL = {"strict", "mapping"}  # about the whole: for the merge alone

if unknown := sorted(set(config) - KNOWN):
    raise WorkflowError(f"unknown setting {unknown[0]}; known are {', '.join(sorted(KNOWN))}")
if missing := sorted({"output", "key", "shards", "options"} - set(config)):
    raise WorkflowError(f"the setting {missing[0]} is missing; workflows/prepare.smk begins with an example")
if clash := sorted(OWN & set(config["options"])):
    raise WorkflowError(f"options: {clash[0]} is no option of the command here; set it beside options, or leave it out")

OUTPUT = str(config["output"]).rstrip("/")
PARTS = str(config.get("parts", f"{OUTPUT}.shards"))
SHARDS = int(config["shards"])
WORKERS = int(config.get("workers", 1))
MEMORY = int(config.get("memory", 2000))
SCRIPT = Path(workflow.basedir).parent / "data_prep" / f"{config.get('command', 'dicom_to_slices')}.py"
GIVEN = {**config["options"], "key": config["key"], "workers": WORKERS}


def command(options):
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return shlex.join([str(config.get("python", sys.executable)), str(SCRIPT), *given])


# the marks, not the folders, are what Snakemake knows of: it removes the outputs of a rule before it runs it again
localrules:
    dataset,


rule dataset:
    input:
        f"{PARTS}/merged",


rule shard:
    output:
        touch(f"{PARTS}/{{number}}.done"),
    params:
        command=command({name: value for name, value in GIVEN.items() if name not in OF_ALL}),
        folder=lambda wildcards: shlex.quote(f"{PARTS}/{wildcards.number}"),
        shards=SHARDS,
    wildcard_constraints:
        number=r"\d+",
    threads: WORKERS
    resources:
        mem_mb=1000 + MEMORY * WORKERS,
        runtime=int(config.get("minutes", 240)),
    retries: 1
    shell:
        "{params.command} --output {params.folder} --shard {wildcards.number}/{params.shards}"


rule merge:
    input:
        expand(f"{PARTS}/{{number}}.done", number=range(1, SHARDS + 1)),
    output:
        touch(f"{PARTS}/merged"),
    params:
        command=command(GIVEN),
        output=shlex.quote(OUTPUT),
        parts=shlex.quote(PARTS),
    resources:
        mem_mb=4000,
        runtime=int(config.get("minutes", 240)),
    shell:
        "{params.command} --output {params.output} --merge {params.parts}"
