"""What stands below the flags in the help of each verb."""

TIME_EXAMPLES = """\
examples:
  pai-bench time --criteria snip,grasp,synflow --models vgg
  pai-bench time --criteria snip,force:micro-batch=32 --models torchvision:resnet50 --data cifar10 --device cuda
  pai-bench time --criteria snap,snap-it --models resnet-20 --data cifar10 --sparsity 0.5,0.8 --sparsity-of nodes

One score, and a whole pruning with all cuts of the criterion's schedule, are measured beside a bare forward and
backward pass of the same batch. Of a structured criterion, so is what the smaller network takes: one forward pass in
evaluation mode, on 1 and on 128 examples, and one training step, by turns with those of the dense network.
The rows are kept in the results folder and become part of its report.md.
Nothing else should run on the machine meanwhile."""

COLLAPSE_EXAMPLES = """\
examples:
  pai-bench collapse --criteria random,snip,synflow --models lenet-300-100
  pai-bench collapse --criteria snip,synflow --models vgg-16-bn --data cifar10 --seeds 1 --points 8
  pai-bench collapse collapse --out frontiers
      the recipe of that name: ten criteria on MNIST, six on VGG-16 and ResNet-18 for CIFAR-10, in some twenty minutes

A network is connected while some output depends on some input through kept connections. One-shot criteria are scored
once, and their limit is exact to the connection; for iterative ones a pruning is made at each sparsity, and half as
many again by bisection. The rows are kept in the results folder and become part of its report.md; what is stored there
is not searched again.
exit codes: 0; 1 a search failed; 2 a mistake in the request; 130 interrupted"""

PRUNE_EXAMPLES = """\
examples:
  pai-bench prune --model resnet-20 --data cifar10 --criterion synflow --sparsity 0.98 -o mask.safetensors
  pai-bench prune --model lenet-5-caffe --criterion snap --sparsity 0.8 --shrink -o small.safetensors
      a network that is really smaller: the weights that are left, and which units they belong to

Criteria of single weights (snip, grasp, synflow) give a mask, and all tensors stay as large as they are. Those of whole
units (snap, snap-it, group:of=NAME) can give a smaller network. In Python:
  pai_bench.Mask.load(FILE)                  a mask of single weights
  pai_bench.GroupMask.load(FILE)             a mask of units, for pai_bench.shrink(model, mask)
  pai_bench.groups.CombinedMask.load(FILE)   a mask of units and single weights (cnip), likewise
  pai_bench.load_shrunk(FILE, model)         a network of --shrink; model = pai_bench.create_model(...) is the dense one

exit codes: 0; 2 a mistake in the request; 130 interrupted"""

RUN_EXAMPLES = """\
examples:
  pai-bench run --criteria snip,random --models lenet,vgg
      the whole comparison on handwritten digits, offline, in a few minutes
  pai-bench run --criteria snip,grasp:temperature=1,synflow --models resnet-20 --data cifar10 --seeds 5
  pai-bench run --criteria snip,gmp,rigl,snip-it:when=during:delay=0:every=1 --models lenet-300-100
      before training, and during it; --prune-at 10% prunes by other criteria after a tenth of the steps
  pai-bench run --criteria ./mine.py:Mine,snip --models torchvision:resnet18 --data folder:pets
  pai-bench run recipe.toml --epochs 5
      a sweep from a file; flags override its keys, which are called like them
  pai-bench run --models resnet-20 --data cifar10 --protocol openlth-resnet20 --budget 0.1
      a published protocol, at a tenth of its length
  pai-bench run snip-table-1 --seeds 3 --dry-run
      a table of a paper, see `pai-bench list recipes`: its trials, hours and memory on this machine; then without
      --dry-run

  pai-bench run recipe.toml --shard $SLURM_ARRAY_TASK_ID/8 --out part-$SLURM_ARRAY_TASK_ID --time-limit 3h55m
      a job of an array: an eighth of the sweep, which ends in time and resumes with the same command

What is stored in --out is not run again: the same command runs what is missing, and resumes what was being trained.
exit codes: 0; 1 a trial failed; 2 a mistake in the request; 130 interrupted, or at its time limit"""

EVALUATE_NOTES = """\
examples:
  pai-bench evaluate results --evaluate gap
  pai-bench evaluate results --evaluate verdict-linf:eps=0.1,verdict-linf:eps=0.2,minimal-l2

A network that was kept (`pai-bench run --keep-networks`) is read; others are trained again, as the commands say that
are in their records: run this from the same folder, with the same files. Give --data-dir if data are elsewhere now.
Worker processes divide the networks where that is faster, and so do several commands on one folder.
exit codes: 0; 1 some networks could not be evaluated; 2 a mistake in the request; 130 interrupted"""

STATUS_NOTES = """\
examples:
  pai-bench status
  pai-bench status results
      on any machine that sees the folder: which processes run its trials, how far each is, and which have died

Every process writes a few words about itself into RESULTS/claims, about every 5 seconds; this command waits until each
has done so once more. The trials of a process that has died run with the next `pai-bench run` of the same sweep, or in
one that is running: at once on the same machine, after a minute on others. Nothing is written to the folder.
exit codes: 0 all processes are alive, or there is none; 1 one is not, or its file is damaged; 2 a mistake in the
request; 130 interrupted"""

VERIFY_NOTES = """\
Of each file, the settings must be those that it is named by, and the content that of its checksum; of each mask, the
numbers of connections those of its record. Nothing is changed without --repair. A trial whose record is set aside runs
again with the next `pai-bench run`.
exit codes: 0 all are whole; 1 some are not; 2 a mistake in the request; 130 interrupted"""

MERGE_NOTES = """\
examples:
  pai-bench merge results-a results-b -o results
  pai-bench report results

Nothing is overwritten: if two folders hold different results of one trial, they are named, and nothing is written.
Damaged files are named and left out.
exit codes: 0; 1 some files were left out; 2 a mistake in the request; 130 interrupted"""

CHECK_EXAMPLES = """\
examples:
  pai-bench check snip
  pai-bench check ./mine.py:Mine:alpha=2       a class in a file of yours, with an option
  pai-bench check theirs                       a criterion of an installed package, by its name in `pai-bench list`

The criterion scores and prunes small networks of every kind; the properties that it declares are checked, too.
exit codes: 0 all passed; 1 a check failed; 2 a mistake in the request; 130 interrupted"""

EXAMPLES = """\
examples:
  pai-bench run --criteria snip,random --models lenet,vgg      compare, store, report
  pai-bench list criteria                                      what there is
  pai-bench report results -o reports/mine.md                  report again from what is stored
  pai-bench compare results other-results                      the same trials on two machines
  pai-bench status results                                     which processes run its trials, and how far they are
  pai-bench verify results                                     whether every stored file is whole
  pai-bench merge results other-results -o both                the trials of two machines in one folder
  pai-bench time --criteria snip,grasp --models vgg            what scoring costs
  pai-bench collapse --criteria snip,synflow --models vgg      at which sparsity networks are disconnected
  pai-bench prune --model resnet-20 --data cifar10 --criterion synflow --sparsity 0.98 -o mask.safetensors
  pai-bench check ./mine.py:Mine                               whether a criterion keeps the contract

`pai-bench VERB --help` explains each."""
