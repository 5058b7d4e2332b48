"""Looking inside a finished network: what accuracies do not show, as numbers; ``headstart.report`` draws them.

One module per analysis: the loss surface, the perturbations of the training method, where the network looks, margins
and predictions under attack, the epsilon at which each image falls, and what the run's own record says.
"""
