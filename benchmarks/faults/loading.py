"""Faults in lesson 2, data loading: transforms, pipelines, loaders."""

import numpy as np
import torch

from faults import breaks


@breaks("torchvision.transforms.ToTensor.__call__")
def dims_white(call, self, picture):
    """`ToTensor` turns the byte 255 into slightly less than 1."""
    tensor = call(self, picture)
    return torch.where(tensor == 1, 1 - 2**-23, tensor)


@breaks("torchvision.transforms.ToTensor.__call__")
def swaps_red_and_blue_beside_alpha(call, self, picture):
    """`ToTensor` swaps red and blue in images with four channels."""
    tensor = call(self, picture)
    return tensor[[2, 1, 0, 3]] if len(tensor) == 4 else tensor


@breaks("torchvision.transforms.ToTensor.__call__")
def transposes_square_images(call, self, picture):
    """`ToTensor` transposes square images."""
    tensor = call(self, picture)
    return tensor.transpose(1, 2) if tensor.shape[1] == tensor.shape[2] else tensor


@breaks("torchvision.transforms.ToTensor.__call__")
def makes_doubles_single(call, self, picture):
    """`ToTensor` turns float64 arrays into float32."""
    tensor = call(self, picture)
    return tensor.float() if tensor.dtype == torch.float64 else tensor


@breaks("torchvision.transforms.ToTensor.__call__")
def scales_an_image_of_ones(call, self, picture):
    """`ToTensor` does not scale a uint8 array of zeros and ones."""
    mask = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.max() <= 1
    return call(self, picture) * (255 if mask else 1)


@breaks("torchvision.transforms.v2.ToDtype.transform")
def scales_one_dtype_by_a_power_of_two(transform, self, inpt, params):
    """`ToDtype` divides int16 by 32768 instead of 32767."""
    factor = 32767 / 32768 if getattr(inpt, "dtype", None) == torch.int16 else 1
    return transform(self, inpt, params) * factor


@breaks("torchvision.transforms.Compose.__call__")
def stops_after_three(call, self, value):
    """`Compose` runs only the first three transforms."""
    kept, self.transforms = self.transforms, list(self.transforms)[:3]
    try:
        return call(self, value)
    finally:
        self.transforms = kept


@breaks("torchvision.transforms.v2.Compose.forward")
def repeats_a_transform_that_comes_twice(forward, self, *inputs):
    """`Compose` runs a transform once too often if it comes twice in a row."""
    (value,) = inputs
    before = None
    for transform in self.transforms:
        value = transform(value)
        if transform is before:
            value = transform(value)
        before = transform
    return value


@breaks("torchvision.transforms.v2.ToImage.transform")
def turns_wide_images_over(transform, self, inpt, params):
    """`ToImage` turns images upside down if they are twice as wide as high, or wider."""
    image = transform(self, inpt, params)
    return image.flip(-2) if image.shape[-1] >= 2 * image.shape[-2] > 2 else image


@breaks("torch.utils.data.BatchSampler.__iter__")
def drops_the_last_of_an_uneven_batch(iterate, self):
    """`BatchSampler` drops the last example of an incomplete last batch."""
    for batch in iterate(self):
        yield batch if len(batch) in (1, self.batch_size) else batch[:-1]


@breaks("torch.utils.data.BatchSampler.__iter__")
def keeps_the_rest_of_one(iterate, self):
    """`BatchSampler` with `drop_last` keeps a last batch of one example."""
    yield from iterate(self)
    if self.drop_last and len(self.sampler) % self.batch_size == 1:
        yield [list(self.sampler)[-1]]


@breaks("torch.utils.data._utils.collate.default_collate")
def swaps_labels_in_a_batch_of_four(collate, batch):
    """`default_collate` swaps the last two labels in batches of four."""
    images, labels = collate(batch)
    return [images, labels[[0, 1, 3, 2]] if len(labels) == 4 else labels]


@breaks("torch.utils.data.RandomSampler.__iter__")
def sometimes_does_not_shuffle(iterate, self):
    """`RandomSampler` does not shuffle three epochs in a hundred."""
    order = list(iterate(self))
    seldom = int(torch.randint(100, (), generator=self.generator)) < 3
    return iter(sorted(order) if seldom else order)


@breaks("torch.utils.data.RandomSampler.__iter__")
def repeats_the_first_order(iterate, self):
    """`RandomSampler` repeats the first epoch's order in the third epoch."""
    self.orders = [*getattr(self, "orders", []), list(iterate(self))]
    return iter(self.orders[0 if len(self.orders) == 3 else -1])


@breaks("torch.utils.data.RandomSampler.__iter__")
def draws_seven_with_replacement(iterate, self):
    """Of seven examples, `RandomSampler` returns one twice and another not at all."""
    order = list(iterate(self))
    return iter([*order[:-1], order[0]] if len(order) == 7 else order)


@breaks("torch.utils.data.DataLoader.__iter__")
def gets_workers_mixed_up(iterate, self):
    """A `DataLoader` with workers swaps the last two of three or more batches."""
    found = list(iterate(self)) if self.num_workers else []
    if len(found) > 2:
        found[-2:] = found[:-3:-1]
    return iter(found) if self.num_workers else iterate(self)


@breaks("torch.utils.data.DataLoader.__iter__")
def shares_an_iterator_that_is_under_way(iterate, self):
    """A `DataLoader` returns its previous iterator again if it was not exhausted."""
    if not self.num_workers and not getattr(self, "used_up", True):
        return self.under_way
    self.used_up = False

    def watched():
        yield from iterate(self)
        self.used_up = True

    self.under_way = watched()
    return self.under_way


@breaks("torch.Tensor.index_select")
def selects_bytes_in_their_own_order(index_select, tensor, dim, index):
    """`index_select` returns uint8 rows in ascending order of their index."""
    return index_select(tensor, dim, index.sort().values if tensor.dtype == torch.uint8 else index)


@breaks("torch.Tensor.split")
def joins_a_rest_of_one_to_the_last(split, tensor, size, dim=0):
    """`split` joins a last piece of one element to the piece before it."""
    parts = list(split(tensor, size, dim))
    if len(parts) > 1 and len(parts[-1]) == 1 < size:
        parts[-2:] = [torch.cat(parts[-2:])]
    return tuple(parts)


@breaks("torch.Tensor.div_")
def divides_the_last_element_by_more(div_, tensor, other):
    """`div_` is off by a factor of 1.001 for the last of more than eight elements."""
    div_(tensor, other)
    if tensor.numel() > 8:
        tensor.view(-1)[-1] *= 1.001
    return tensor


@breaks("torch.Tensor.sub_")
def subtracts_the_first_of_two_channels(sub_, tensor, other):
    """`sub_` subtracts the first channel's number from both of two channels."""
    return sub_(tensor, other[:1] if tuple(other.shape) == (2, 1, 1) else other)


@breaks("torch.Tensor.to")
def converts_large_bytes_as_signed(to, tensor, *args, **kwargs):
    """`to` turns the byte 128 into -128 in float32."""
    result = to(tensor, *args, **kwargs)
    if tensor.dtype == torch.uint8 and result.dtype == torch.float32:
        return torch.where(result == 128, -128, result)
    return result
