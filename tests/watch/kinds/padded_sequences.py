"""A transformer on sentences of different lengths; attention skips the padding."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

torch.manual_seed(0)
PAD, WORDS = 0, 15


class Sentences(torch.utils.data.Dataset):
    """Sentences of 3 to 8 words; the label says whether one of the words is a 7."""

    def __init__(self, count):
        self.items = []
        for number in range(count):
            words = torch.randint(8, WORDS, (int(torch.randint(3, 9, ())),))
            if number % 2:
                words[0] = 7
            self.items.append((words, number % 2))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def collate(items):
    sentences, labels = zip(*items, strict=True)
    return pad_sequence(sentences, batch_first=True, padding_value=PAD), torch.tensor(labels)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 16, padding_idx=PAD)
        self.attention = nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, words):
        empty = words == PAD
        x = self.embedding(words)
        mixed, _ = self.attention(x, x, x, key_padding_mask=empty)
        kept = (~empty).unsqueeze(2).float()
        return self.head(((x + mixed) * kept).sum(dim=1) / kept.sum(dim=1))


train_loader = DataLoader(Sentences(90), batch_size=16, shuffle=True, collate_fn=collate)
test_loader = DataLoader(Sentences(40), batch_size=16, collate_fn=collate)
model = Classifier()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for epoch in range(4):
    model.train()
    for words, labels in train_loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(words), labels)
        loss.backward()
        optimizer.step()

    model.eval()
    total, right, count = 0.0, 0, 0
    with torch.no_grad():
        for words, labels in test_loader:
            logits = model(words)
            total += F.cross_entropy(logits, labels, reduction="sum").item()
            right += (logits.argmax(dim=1) == labels).sum().item()
            count += len(labels)
    print(f"epoch {epoch}: loss {total / count:.3f}, accuracy {right / count:.3f}")
