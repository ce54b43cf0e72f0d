"""What students really write in lab 2, and the property that says so."""

MISTAKES: dict[tuple[str, str], str] = {
    ("2.1", "shape"): """
def linear_alpha_bar(T, start, end):  # no alpha-bar_0
    return (1 - torch.linspace(start, end, T, dtype=torch.float64)).cumprod(0)
""",
    ("2.1", "starts at 1"): """
def linear_alpha_bar(T, start, end):
    return (1 - torch.linspace(start, end, T + 1, dtype=torch.float64)).cumprod(0)
""",
    ("2.1", "stays positive"): """
def linear_alpha_bar(T, start, end):  # a sum for a product
    betas = torch.linspace(start, end, T, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), 1 - betas.cumsum(0)])
""",
    ("2.1", "first step"): "def linear_alpha_bar(*of): return right(*of).sqrt()",
    ("2.1", "betas on a line"): """
def linear_alpha_bar(T, start, end):  # alpha for alpha-bar
    betas = torch.linspace(start, end, T, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), 1 - betas])
""",
    ("2.1", "last step"): """
def linear_alpha_bar(T, start, end):  # stops before the end
    betas = torch.linspace(start, end, T + 1, dtype=torch.float64)[:-1]
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])
""",
    ("2.2", "asks"): "def epsilon_loss(network, x_0, t, eps, table): return (x_0 - eps).square().mean()",
    ("2.2", "noisy input"): """
def epsilon_loss(network, x_0, t, eps, table):
    return (network(x_0, t) - eps).square().mean()
""",
    ("2.2", "variance stays 1"): """
def epsilon_loss(network, x_0, t, eps, table):
    a = per_example(table[t], x_0)
    return (network(a * x_0 + (1 - a) * eps, t) - eps).square().mean()
""",
    (
        "2.2",
        "level",
    ): "def epsilon_loss(network, x_0, t, eps, table): return right(network, x_0, t, eps, table.roll(1))",
    ("2.2", "told the time"): """
def epsilon_loss(network, x_0, t, eps, table):
    return right(lambda x, t: network(x, t - 1), x_0, t, eps, table)
""",
    ("2.2", "perfect network"): """
def epsilon_loss(network, x_0, t, eps, table):
    a = per_example(table[t], x_0)
    return (network(a.sqrt() * x_0 + (1 - a).sqrt() * eps, t) - x_0).square().mean()
""",
    ("2.2", "squared"): """
def epsilon_loss(network, x_0, t, eps, table):
    a = per_example(table[t], x_0)
    return (network(a.sqrt() * x_0 + (1 - a).sqrt() * eps, t) - eps).abs().mean()
""",
    ("2.2", "mean"): """
def epsilon_loss(network, x_0, t, eps, table):
    return right(network, x_0, t, eps, table) * eps.numel()
""",
    ("2.3", "last step is quiet"): """
def ancestral_step(x_t, eps_hat, t, table, z):
    alpha = float(table[t] / table[t - 1])
    return right(x_t, eps_hat, t, table, 0 * z) + math.sqrt(1 - alpha) * z
""",
    ("2.3", "own t"): """
def ancestral_step(x_t, eps_hat, t, table, z):
    return right(x_t, eps_hat, t - 1 if t > 1 else t, table, z)
""",
    ("2.3", "variance of the noise"): """
def ancestral_step(x_t, eps_hat, t, table, z):  # a variance for a deviation
    beta = 1 - float(table[t] / table[t - 1])
    return right(x_t, eps_hat, t, table, 0 * z) + (beta * z if t > 1 else 0)
""",
    ("2.3", "factor of x"): """
def ancestral_step(x_t, eps_hat, t, table, z):  # no division by the root of alpha
    alpha, beta, left = table[t] / table[t - 1], 1 - table[t] / table[t - 1], 1 - table[t]
    return x_t - beta / left.sqrt() * eps_hat + (beta.sqrt() * z if t > 1 else 0)
""",
    ("2.3", "factor of eps"): """
def ancestral_step(x_t, eps_hat, t, table, z):  # a root is missing
    alpha, beta, left = table[t] / table[t - 1], 1 - table[t] / table[t - 1], 1 - table[t]
    return (x_t - beta / left * eps_hat) / alpha.sqrt() + (beta.sqrt() * z if t > 1 else 0)
""",
    ("2.4", "no chance at eta = 0"): """
def ddim_step(x_t, eps_hat, t, s, table, eta, z):
    return right(x_t, eps_hat, t, s, table, 1.0, z)
""",
    ("2.4", "arrives"): """
def ddim_step(x_t, eps_hat, t, s, table, eta, z):  # x_0_hat without the division
    x_0_hat = x_t - (1 - table[t]).sqrt() * eps_hat
    return table[s].sqrt() * x_0_hat + (1 - table[s]).sqrt() * eps_hat
""",
    ("2.4", "direction"): """
def ddim_step(x_t, eps_hat, t, s, table, eta, z):
    x_0_hat = (x_t - (1 - table[t]).sqrt() * eps_hat) / table[t].sqrt()
    return table[s].sqrt() * x_0_hat + ((1 - table[t]).sqrt() if s > 0 else 0) * eps_hat
""",
    ("2.4", "stays on the way"): """
def ddim_step(x_t, eps_hat, t, s, table, eta, z):  # a root is missing
    x_0_hat = (x_t - (1 - table[t]).sqrt() * eps_hat) / table[t].sqrt()
    return table[s] * x_0_hat + (1 - table[s]).sqrt() * eps_hat
""",
    ("2.4", "variance is kept"): """
def ddim_step(x_t, eps_hat, t, s, table, eta, z):  # noise is added, none taken away
    fresh = right(0 * x_t, 0 * eps_hat, t, s, table, eta, z)
    return right(x_t, eps_hat, t, s, table, 0.0, z) + fresh
""",
    ("2.4", "half of eta"): """
def ddim_step(x_t, eps_hat, t, s, table, eta, z):
    return right(x_t, eps_hat, t, s, table, eta**0.5, z)
""",
    ("2.4", "sibling"): """
def ddim_step(x_t, eps_hat, t, s, table, eta, z):  # beta for beta-tilde
    x_0_hat = (x_t - (1 - table[t]).sqrt() * eps_hat) / table[t].sqrt()
    variance = eta**2 * (1 - table[t] / table[s]) * min(1.0, float(s))
    kept = (1 - table[s] - variance).clamp(min=0).sqrt()
    return table[s].sqrt() * x_0_hat + kept * eps_hat + variance**0.5 * z
""",
    ("2.5", "t = 0"): "def time_embedding(t, width): return right(t, width).roll(width // 2, dims=1)",  # sines first
    ("2.5", "fastest"): "def time_embedding(t, width): return right(t / 1000, width)",
    ("2.5", "slower and slower"): """
def time_embedding(t, width):  # the minus is missing
    angles = t[:, None].float() * torch.exp(math.log(10_000) * torch.arange(width // 2) / (width // 2))
    return torch.cat([angles.cos(), angles.sin()], dim=1)
""",
    ("2.5", "library"): """
def time_embedding(t, width):  # width for half of it
    angles = t[:, None].float() * torch.exp(-math.log(10_000) * torch.arange(width // 2) / width)
    return torch.cat([angles.cos(), angles.sin()], dim=1)
""",
    ("2.6", "first convolution"): """
class ResBlock(right):
    def forward(self, x, embedding):
        h = self.conv_in(x) + self.embed(embedding)[:, :, None, None]
        return self.shortcut(x) + self.conv_out(F.silu(self.norm_out(h)))
""",
    ("2.6", "told the time"): """
class ResBlock(right):
    def forward(self, x, embedding):
        return super().forward(x, 0 * embedding)
""",
    ("2.6", "second convolution"): """
class ResBlock(right):
    def forward(self, x, embedding):  # the time after the norm
        h = self.norm_out(self.conv_in(F.silu(self.norm_in(x)))) + self.embed(embedding)[:, :, None, None]
        return self.shortcut(x) + self.conv_out(F.silu(h))
""",
    ("2.6", "shortcut"): """
class ResBlock(right):
    def forward(self, x, embedding):
        h = self.conv_in(F.silu(self.norm_in(x))) + self.embed(embedding)[:, :, None, None]
        return self.conv_out(F.silu(self.norm_out(h)))
""",
    ("2.6", "library"): """
class ResBlock(right):
    def forward(self, x, embedding):  # the shortcut is there, half of the branch is not
        h = self.conv_in(F.silu(self.norm_in(x))) + self.embed(embedding)[:, :, None, None]
        return self.shortcut(x) + 0.5 * self.conv_out(F.silu(self.norm_out(h)))
""",
    ("2.7", "weights sum to 1"): """
def attention(q, k, v):  # softmax over those who ask
    q_, k_, v_ = (part.flatten(2).mT for part in (q, k, v))
    return (torch.softmax(q_ @ k_.mT / q.shape[1] ** 0.5, dim=1) @ v_).mT.reshape(v.shape)
""",
    ("2.7", "no place is special"): """
def attention(q, k, v):  # a reshape for a transpose
    q_, k_, v_ = (part.reshape(len(part), -1, part.shape[1]) for part in (q, k, v))
    return (torch.softmax(q_ @ k_.mT / q.shape[1] ** 0.5, dim=-1) @ v_).reshape(v.shape)
""",
    ("2.7", "over pixels"): """
def attention(q, k, v):  # over channels
    q_, k_, v_ = (part.flatten(2) for part in (q, k, v))
    return (torch.softmax(q_ @ k_.mT / q.shape[1] ** 0.5, dim=-1) @ v_).reshape(v.shape)
""",
    ("2.7", "scale"): """
def attention(q, k, v):
    q_, k_, v_ = (part.flatten(2).mT for part in (q, k, v))
    return (torch.softmax(q_ @ k_.mT, dim=-1) @ v_).mT.reshape(v.shape)
""",
    ("2.8", "told the time"): """
class UNet(right):
    def forward(self, x, t):
        return super().forward(x, 0 * t)
""",
    ("2.8", "coarse skip"): """
class UNet(right):
    def forward(self, x, t):
        emb = self.embed(time_embedding(t, self.channels))
        fine = self.down_fine(self.conv_in(x), emb)
        h = self.middle(self.attend(self.down_coarse(self.shrink(fine), emb)), emb)
        h = self.up_coarse(torch.cat([h, h], dim=1), emb)
        h = self.up_fine(torch.cat([self.grow(h), fine], dim=1), emb)
        return self.conv_out(F.silu(self.norm_out(h)))
""",
    ("2.8", "fine skip"): """
class UNet(right):
    def forward(self, x, t):
        emb = self.embed(time_embedding(t, self.channels))
        first = self.conv_in(x)
        coarse = self.down_coarse(self.shrink(self.down_fine(first, emb)), emb)
        h = self.middle(self.attend(coarse), emb)
        h = self.up_coarse(torch.cat([h, coarse], dim=1), emb)
        h = self.up_fine(torch.cat([self.grow(h), first], dim=1), emb)
        return self.conv_out(F.silu(self.norm_out(h)))
""",
    ("2.8", "every part works"): """
class UNet(right):
    def forward(self, x, t):  # no attention
        emb = self.embed(time_embedding(t, self.channels))
        fine = self.down_fine(self.conv_in(x), emb)
        coarse = self.down_coarse(self.shrink(fine), emb)
        h = self.up_coarse(torch.cat([self.middle(coarse, emb), coarse], dim=1), emb)
        h = self.up_fine(torch.cat([self.grow(h), fine], dim=1), emb)
        return self.conv_out(F.silu(self.norm_out(h)))
""",
}
