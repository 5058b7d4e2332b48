import torch
from torch.utils.data import DataLoader, TensorDataset

import headstart


def test_each_sample_comes_with_its_row_in_any_order() -> None:
    images, labels = torch.arange(20.0).view(20, 1, 1, 1), torch.arange(20)
    loader = DataLoader(headstart.Indexed(TensorDataset(images, labels)), batch_size=6, shuffle=True)
    assert len(loader) == 4
    rows = []
    for x, y, index in loader:
        assert torch.equal(labels[index], y)
        assert torch.equal(images[index], x)
        rows += index.tolist()
    assert sorted(rows) == list(range(20))
    assert rows != sorted(rows)


def test_a_memory_method_takes_what_the_loader_gives() -> None:
    """The memory starts from what the sample was left with the last time, whatever batch it is in."""
    dataset = TensorDataset(torch.rand(20, 1, 8, 8), torch.arange(20) % 10)
    method = headstart.load_method(
        "fgsm-ep", epsilon=0.1, classes=10, image_shape=(1, 8, 8), updates=8, epochs=2, samples=20
    )
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    loader = DataLoader(headstart.Indexed(dataset), batch_size=5, shuffle=True)
    for _ in range(2):
        for x, y, index in loader:
            method(model, x, y, index).backward()
    method.finish()
    (memory,) = [part for part in method.method.modules() if type(part).__name__ == "SampleMemory"]
    assert isinstance(memory.rows, torch.Tensor)
    assert len(memory.rows) == 20
    assert (memory.rows != 0).any(1).all()
