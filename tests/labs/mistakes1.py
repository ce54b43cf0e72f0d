"""What students really write in lab 1, and the property that says so."""

MISTAKES: dict[tuple[str, str], str] = {
    ("1.1", "all modes"): """
def count_modes(draws, centres, reach):
    distance, nearest = torch.cdist(draws, centres).min(dim=1)
    near = nearest[distance <= reach].bincount(minlength=len(centres))
    return int((near > len(draws) / 8).sum()), float((distance > reach).float().mean())  # more than the whole share
""",
    ("1.1", "share between"): """
def count_modes(draws, centres, reach):
    distance, nearest = torch.cdist(draws, centres).min(dim=1)
    near = nearest[distance <= reach].bincount(minlength=len(centres))
    return int((near >= len(draws) / 32).sum()), float((distance <= reach).float().mean())  # the others
""",
    ("1.1", "fair share"): """
def count_modes(draws, centres, reach):
    distance, nearest = torch.cdist(draws, centres).min(dim=1)
    near = nearest[distance <= reach].bincount(minlength=len(centres))
    return int((near > 0).sum()), float((distance > reach).float().mean())  # a single draw will do
""",
    ("1.1", "share of all draws"): """
def count_modes(draws, centres, reach):
    distance, nearest = torch.cdist(draws, centres).min(dim=1)
    near = nearest[distance <= reach].bincount(minlength=len(centres))
    return int((near >= near.sum() / 32).sum()), float((distance > reach).float().mean())  # of those near a centre
""",
    ("1.2", "no noise"): "def forward_step(x, beta, eps): return beta**0.5 * x + (1 - beta) ** 0.5 * eps",  # swapped
    ("1.2", "variance of the signal"): "def forward_step(x, beta, eps): return (1 - beta) * x + beta**0.5 * eps",
    ("1.2", "variance of the noise"): "def forward_step(x, beta, eps): return (1 - beta) ** 0.5 * x + beta * eps",
    ("1.3", "still near"): """
def q_sample(x_0, t, betas, eps):  # swapped
    a = per_example((1 - betas).cumprod(0)[t - 1], x_0)
    return (1 - a).sqrt() * x_0 + a.sqrt() * eps
""",
    ("1.3", "variance stays 1"): """
def q_sample(x_0, t, betas, eps):  # no roots
    a = per_example((1 - betas).cumprod(0)[t - 1], x_0)
    return a * x_0 + (1 - a) * eps
""",
    ("1.3", "first step"): """
def q_sample(x_0, t, betas, eps):  # one step too far
    a = per_example((1 - betas).cumprod(0)[t.clamp(max=len(betas) - 1)], x_0)
    return a.sqrt() * x_0 + (1 - a).sqrt() * eps
""",
    ("1.3", "recursion"): """
def q_sample(x_0, t, betas, eps):  # beta for alpha-bar
    a = per_example(1 - betas[t - 1], x_0)
    return a.sqrt() * x_0 + (1 - a).sqrt() * eps
""",
    ("1.3", "own t"): """
def q_sample(x_0, t, betas, eps):  # the first example's t for all
    a = (1 - betas).cumprod(0)[t[0] - 1]
    return a.sqrt() * x_0 + (1 - a).sqrt() * eps
""",
    ("1.4", "near x_t"): """
def posterior(x_t, x_0, t, betas):  # swapped
    mean, variance = right(x_0, x_t, t, betas)
    return mean, variance
""",
    ("1.4", "narrower than beta"): """
def posterior(x_t, x_0, t, betas):
    return right(x_t, x_0, t, betas)[0], betas[t - 1]
""",
    ("1.4", "t = 1"): """
def posterior(x_t, x_0, t, betas):  # no alpha-bar before the first: at t = 1 Python reads the last one
    table = (1 - betas).cumprod(0)
    now, before, beta = table[t - 1], table[t - 2], betas[t - 1]
    mean = per_example(before.sqrt() * beta / (1 - now), x_t) * x_0
    mean = mean + per_example((1 - beta).sqrt() * (1 - before) / (1 - now), x_t) * x_t
    return mean, beta * (1 - before) / (1 - now)
""",
    ("1.4", "mean of the margin"): """
def posterior(x_t, x_0, t, betas):  # a root is missing
    table = torch.cat([torch.ones(1, dtype=betas.dtype), (1 - betas).cumprod(0)])
    now, before, beta = table[t], table[t - 1], betas[t - 1]
    mean = per_example(before * beta / (1 - now), x_t) * x_0
    mean = mean + per_example((1 - beta).sqrt() * (1 - before) / (1 - now), x_t) * x_t
    return mean, beta * (1 - before) / (1 - now)
""",
    ("1.4", "variance of the margin"): """
def posterior(x_t, x_0, t, betas):  # a deviation for a variance
    mean, variance = right(x_t, x_0, t, betas)
    return mean, variance**2
""",
    ("1.5", "a logarithm"): "def reverse_log_variance(*of): return right(*of).exp()",
    ("1.5", "mix = 1"): "def reverse_log_variance(mix, *of): return right(1 - mix, *of)",
    ("1.5", "mix = 0"): """
def reverse_log_variance(mix, t, betas, least):  # DDPM's two variances are beta and beta
    return per_example(betas[t - 1].log(), mix) + 0 * mix
""",
    ("1.5", "geometric"): """
def reverse_log_variance(mix, t, betas, least):
    large, small = (right(torch.full_like(mix, value), t, betas, least).exp() for value in (1.0, 0.0))
    return (mix * large + (1 - mix) * small).log()
""",
    ("1.5", "t = 1"): """
def reverse_log_variance(mix, t, betas, least):  # least forgotten
    return right(mix, t, betas, 1e-30)
""",
    ("1.6", "zero"): "def kl_bits(m, v, n, w): return right(m, v, n, w) + 0.5",
    ("1.6", "bits"): "def kl_bits(m, v, n, w): return right(m, v, n, w) * math.log(2)",
    ("1.6", "direction"): "def kl_bits(m, v, n, w): return right(n, w, m, v)",
    ("1.6", "sum over dimensions"): "def kl_bits(m, v, n, w): return right(m, v, n, w) / m.shape[1]",
    ("1.6", "torch"): "def kl_bits(m, v, n, w): return right(m, 2 * v, n, 2 * w)",
    ("1.7", "every step"): """
def bound_bits(x_0, predict, betas, eps, least):  # stops before T
    total = right(x_0, predict, betas[:-1], eps, least)
    return total
""",
    ("1.7", "step to the data"): """
def bound_bits(x_0, predict, betas, eps, least):
    total = right(x_0, predict, betas, eps, least)
    return total / len(betas)  # the mean over t
""",
    ("1.7", "prior"): """
def bound_bits(x_0, predict, betas, eps, least):
    left = (1 - betas).prod()
    zero = torch.zeros_like(x_0)
    return right(x_0, predict, betas, eps, least) - kl_bits(left.sqrt() * x_0, zero + torch.log1p(-left), zero, zero)
""",
    ("1.7", "sum"): """
def bound_bits(x_0, predict, betas, eps, least):  # the mean of the steps, beside prior and decoder
    left, zero, steps = (1 - betas).prod(), torch.zeros_like(x_0), []
    for step in range(1, len(betas) + 1):
        t = torch.full((len(x_0),), step)
        x_t = q_sample(x_0, t, betas, eps[step - 1])
        steps.append(step_bits(x_0, x_t, t, *predict(x_t, t), betas, least))
    prior = kl_bits(left.sqrt() * x_0, zero + torch.log1p(-left), zero, zero)
    return prior + steps[0] + torch.stack(steps[1:]).mean(0)
""",
    ("1.8", "spins"): "def flip(x_0, gamma, u): return torch.where(u < (1 + per_example(gamma, x_0)) / 2, x_0, 0.0)",
    ("1.8", "gamma = 1"): "def flip(x_0, gamma, u): return torch.where(u < per_example(gamma, x_0) / 2, x_0, -x_0)",
    ("1.8", "gamma = 0"): "def flip(x_0, gamma, u): return torch.where(u < per_example(gamma, x_0), x_0, -x_0)",
    ("1.8", "mean"): "def flip(x_0, gamma, u): return right(x_0, gamma.sqrt(), u)",  # as of a Gaussian
    ("1.8", "own gamma"): "def flip(x_0, gamma, u): return right(x_0, gamma[:1].expand(len(x_0)), u)",
}
