"""Robust accuracy, measured, and the reasons there may be not to trust it.

    settings ──> subject      the network, the test images and the threat model that the settings name
       │            │
       └──> suite ──┴─> measurement    its attacks, one after the other, on the images that are left
                             │
             attack ──> verdict        of one batch: projected, and classified by the network in strict float32
                             │
                          outcome      of every image: its worst example so far, and the evidence
                             │
             evidence ──> warnings     which attack broke which image, and what that says against the numbers
                             │
                         evaluation    the record: accuracies, warnings, one verdict per image, and the request

The request is the source with the settings, so ``replay`` makes the evaluation anew and holds the verdicts together.
``sweep`` measures at several epsilons, ``compare`` two networks on the same images.
"""
