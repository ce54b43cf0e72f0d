"""What students really write in lab 3, and the property that says so."""

MISTAKES: dict[tuple[str, str], str] = {
    ("3.1", "bool"): "def rectangle(*of): return right(*of).float()",
    ("3.1", "True is the hole"): "def rectangle(*of): return ~right(*of)",  # upside down
    ("3.1", "width and height"): "def rectangle(*of): return right(*of).mT",  # rows for columns
    ("3.1", "a share"): """
def rectangle(size, u, least, most):  # pixels of 64
    width, height = (int(64 * (least + (most - least) * each)) for each in u[:2])
    left, top = int(u[2] * (size - width)), int(u[3] * (size - height))
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, max(0, top) : top + height, max(0, left) : left + width] = True
    return mask
""",
    ("3.1", "whole at the border"): """
def rectangle(size, u, least, most):  # the box may begin anywhere
    width, height = (round(size * (least + (most - least) * float(each))) for each in u[:2])
    left, top = int(u[2] * size), int(u[3] * size)
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, top : top + height, left : left + width] = True
    return mask
""",
    ("3.1", "everywhere"): """
def rectangle(size, u, least, most):  # room for the largest box
    width, height = (round(size * (least + (most - least) * float(each))) for each in u[:2])
    left, top = int(u[2] * size * (1 - most)), int(u[3] * size * (1 - most))
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, top : top + height, left : left + width] = True
    return mask
""",
    ("3.2", "True is the hole"): "def stroke(*of): return ~right(*of)",
    ("3.2", "x, y"): "def stroke(size, points, width): return right(size, points.flip(1), width)",
    ("3.2", "ends"): """
def stroke(size, points, width):  # whole lines
    middles = (torch.arange(size) + 0.5) / size
    p = torch.stack(torch.meshgrid(middles, middles, indexing="xy"), dim=-1).double()
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    for a, b in zip(points[:-1], points[1:]):
        along = (p - a) @ (b - a) / (b - a).square().sum()
        mask |= torch.linalg.vector_norm(p - a - along[..., None] * (b - a), dim=-1) <= width / 2
    return mask
""",
    ("3.2", "width"): "def stroke(size, points, width): return right(size, points, 2 * width)",  # the radius
    ("3.2", "every segment"): "def stroke(size, points, width): return right(size, points[-2:], width)",
    ("3.2", "open"): "def stroke(size, points, width): return right(size, torch.cat([points, points[:1]]), width)",
    ("3.2", "a dot"): """
def stroke(size, points, width):  # 0 / 0
    moved = bool((points[1:] != points[:-1]).any())
    return right(size, points, width) if moved else torch.zeros(1, size, size, dtype=torch.bool)
""",
    ("3.2", "a share"): "def stroke(size, points, width): return right(size, points, width * 64 / size)",
    ("3.3", "known pixels"): "def condition(image, mask, fill): return right(image, ~mask, fill)",
    ("3.3", "no peeping"): "def condition(image, mask, fill): return torch.cat([image, mask * 2.0 - 1], dim=1)",
    ("3.3", "noise in the hole"): """
def condition(image, mask, fill):
    return torch.cat([image * ~mask, mask.to(image) * 2 - 1], dim=1)
""",
    ("3.3", "mask channel"): """
def condition(image, mask, fill):
    return torch.cat([torch.where(mask, fill, image), mask.to(image)], dim=1)
""",
    ("3.3", "shape"): "def condition(image, mask, fill): return torch.where(mask, fill, image)",
    ("3.4", "hole"): "def hole_loss(said, wanted, mask): return right(said, wanted, ~mask)",
    ("3.4", "known pixels"): "def hole_loss(said, wanted, mask): return (said - wanted).square().mean(dim=(1, 2, 3))",
    ("3.4", "area"): """
def hole_loss(said, wanted, mask):  # the mean over all pixels
    return torch.where(mask, (said - wanted).square(), 0).mean(dim=(1, 2, 3))
""",
    ("3.4", "channels"): """
def hole_loss(said, wanted, mask):
    error = torch.where(mask, (said - wanted).square(), 0)
    return error.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)
""",
    ("3.4", "own area"): """
def hole_loss(said, wanted, mask):  # one area for all
    error = torch.where(mask, (said - wanted).square().mean(dim=1, keepdim=True), 0).flatten(1).sum(1)
    return error * len(mask) / mask.sum().clamp(min=1)
""",
    ("3.4", "square"): """
def hole_loss(said, wanted, mask):
    error = torch.where(mask, (said - wanted).abs().mean(dim=1, keepdim=True), 0)
    return error.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)
""",
    ("3.4", "anything outside"): """
def hole_loss(said, wanted, mask):
    error = (said - wanted).square().mean(dim=1, keepdim=True) * mask
    return error.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)
""",
    ("3.4", "no hole"): """
def hole_loss(said, wanted, mask):
    error = torch.where(mask, (said - wanted).square().mean(dim=1, keepdim=True), 0)
    return error.flatten(1).sum(1) / mask.flatten(1).sum(1)
""",
    ("3.5", "hole"): "def keep_known(x, image, mask, level, eps): return right(x, image, ~mask, level, eps)",
    ("3.5", "clean at level 1"): """
def keep_known(x, image, mask, level, eps):
    return torch.where(mask, x, image + per_example((1 - level + 0.01).sqrt(), x) * eps)
""",
    ("3.5", "noise at level 0"): "def keep_known(x, image, mask, level, eps): return torch.where(mask, x, image)",
    ("3.5", "power"): """
def keep_known(x, image, mask, level, eps):  # no roots
    return torch.where(mask, x, per_example(level, x) * image + per_example(1 - level, x) * eps)
""",
    ("3.5", "own level"): """
def keep_known(x, image, mask, level, eps):
    return right(x, image, mask, level[:1].expand(len(x)), eps)
""",
    ("3.5", "anything outside"): """
def keep_known(x, image, mask, level, eps):
    return x * mask + right(x, image, mask, level, eps) * ~mask + 0 * x
""",
    ("3.6", "sign"): "def paired_interval(ours, theirs, draws): return right(theirs, ours, draws)",
    ("3.6", "paired"): """
def paired_interval(ours, theirs, draws):  # each on pictures of its own
    means = ours[draws].mean(1) - theirs[draws.flip(0)].mean(1)
    return tuple(means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist())
""",
    ("3.6", "of the mean"): """
def paired_interval(ours, theirs, draws):
    return tuple((ours - theirs).quantile(torch.tensor([0.025, 0.975], dtype=ours.dtype)).tolist())
""",
    ("3.6", "95 %"): """
def paired_interval(ours, theirs, draws):  # plus and minus one deviation
    means = (ours - theirs)[draws].mean(1)
    return float(means.mean() - means.std()), float(means.mean() + means.std())
""",
    ("3.7", "scale 0"): """
def guided_eps(eps, x, level, log_probability, scale):
    return right(eps, x, level, log_probability, 1 + scale)
""",
    ("3.7", "uphill"): """
def guided_eps(eps, x, level, log_probability, scale):
    return right(eps, x, level, log_probability, -scale)
""",
    ("3.7", "each picture"): """
def guided_eps(eps, x, level, log_probability, scale):
    return right(eps, x, level, lambda x: log_probability(x).mean().expand(1), scale)
""",
    ("3.7", "sigma"): """
def guided_eps(eps, x, level, log_probability, scale):  # the variance
    return right(eps, x, 1 - (1 - level) ** 2, log_probability, scale)
""",
    ("3.7", "while sampling"): """
def guided_eps(eps, x, level, log_probability, scale):
    leaf = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(log_probability(leaf).sum(), leaf)
    return eps - per_example((1 - level).sqrt(), x) * scale * gradient
""",
    ("3.8", "same"): """
def frechet(real, fake):  # both sets as one
    spread = torch.atleast_2d(torch.cat([real, fake]).T.cov()).trace()
    return float((real.mean(0) - fake.mean(0)).square().sum() + spread)
""",
    ("3.8", "means"): """
def frechet(real, fake):
    apart = (real.mean(0) - fake.mean(0)).square().sum()
    return right(real, fake) - float(apart) + float(apart.sqrt())
""",
    ("3.8", "variances"): """
def frechet(real, fake):  # deviations for variances
    one, other = real.std(0), fake.std(0)
    apart = (real.mean(0) - fake.mean(0)).square().sum()
    return float(apart + (one + other - 2 * (one * other).sqrt()).sum())
""",
    ("3.8", "matrix root"): """
def frechet(real, fake):  # roots of the entries
    (m, s), (n, t) = ((x.mean(0), torch.atleast_2d(x.T.cov())) for x in (real, fake))
    return float((m - n).square().sum() + s.trace() + t.trace() - 2 * (s.diagonal() * t.diagonal()).sqrt().sum())
""",
    ("3.8", "library"): """
def frechet(real, fake):  # divided by n
    (m, s), (n, t) = ((x.mean(0), torch.atleast_2d(x.T.cov(correction=0))) for x in (real, fake))
    roots = torch.linalg.eigvals(s @ t).real.clamp(min=0).sqrt()
    return float((m - n).square().sum() + s.trace() + t.trace() - 2 * roots.sum())
""",
}
