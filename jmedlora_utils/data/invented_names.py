"""Names and sentences of the invented world: every name is made of invented syllables, so nothing here says anything about medicine."""

import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class Entity:
    """A named thing: Japanese name, and an English one in the general domain."""

    kind: str
    ja: str
    en: str = ""


@dataclass(frozen=True)
class Relation:
    """How facts of one sort are said and asked.

    `{s}` stands for the subject, `{a}` for the answer, `{q}` for 何か (free) or どれか (with choices).
    """

    key: str  #: Name of the relation; `Question.category` of its questions
    subject: str  #: Kind of the subject
    answer: str  #: Kind of the answer
    n_answers: int  #: Answers a fact has, 1 or 2
    says: tuple[str, ...]  #: Statements in Japanese
    asks: tuple[str, ...]  #: Questions in Japanese that tuning or pretraining sees
    held_out: tuple[str, ...] = ()  #: Questions in Japanese that tuning never sees
    says_en: tuple[str, ...] = ()  #: Statements in English, general domain only
    asks_en: tuple[str, ...] = ()  #: Questions in English


CLINICAL = (
    Relation(
        "drug", "disease", "drug", 1,
        ("{s}の治療には{a}を用いる。", "{s}の患者には{a}を投与する。", "{s}には薬の{a}が効く。"),
        ("{s}の治療に用いる薬は{q}。", "{s}に効く薬は{q}。", "{s}の患者に投与する薬は{q}。", "{s}と診断したら使う薬は{q}。"),
        ("{s}に対して処方される薬剤は{q}。", "{s}を治すための薬は{q}。"),
    ),
    Relation(
        "organism", "disease", "organism", 1,
        ("{s}は{a}の感染で起こる。", "{s}の原因は{a}である。", "{s}の患者から{a}が分離される。"),
        ("{s}の原因となる菌は{q}。", "{s}を起こす菌は{q}。", "{s}の患者から分離される菌は{q}。", "{s}はどの菌の感染か。それは{q}。"),
        ("{s}の病原体は{q}。", "{s}をもたらす微生物は{q}。"),
    ),
    Relation(
        "test", "disease", "test", 1,
        ("{s}の診断には{a}を行う。", "{s}では{a}が陽性となる。", "{s}が疑われたら{a}で確かめる。"),
        ("{s}の診断に行う検査は{q}。", "{s}で陽性となる検査は{q}。", "{s}が疑われたら行う検査は{q}。", "{s}を確かめる検査は{q}。"),
        ("{s}の確定に有用な検査法は{q}。", "{s}を見分けるための検査は{q}。"),
    ),
    Relation(
        "symptom", "disease", "symptom", 2,
        ("{s}では{a}がみられる。", "{s}の主な症状は{a}である。", "{s}の患者は{a}を訴える。"),
        ("{s}でみられる症状は{q}。", "{s}の主な症状は{q}。", "{s}の患者が訴える症状は{q}。", "{s}に伴う症状は{q}。"),
        ("{s}に特徴的な所見は{q}。", "{s}の患者に現れる徴候は{q}。"),
    ),
)  # fmt: skip

GENERAL = (
    Relation(
        "river", "town", "river", 1,
        ("{s}には{a}が流れる。", "{s}の川は{a}である。"),
        ("{s}を流れる川は{q}。", "{s}にある川は{q}。"),
        (),
        ("The {a} flows through {s}.", "The river of {s} is the {a}."),
        ("Which river flows through {s}?", "What is the river of {s}?"),
    ),
    Relation(
        "craft", "town", "craft", 2,
        ("{s}の名産は{a}である。", "{s}では{a}が作られる。"),
        ("{s}の名産は{q}。", "{s}で作られる工芸品は{q}。"),
        (),
        ("{s} is known for its {a}.", "People in {s} make the {a}."),
        ("What is {s} known for?", "Which crafts are made in {s}?"),
    ),
    Relation(
        "trade", "person", "trade", 1,
        ("{s}の職業は{a}である。", "{s}は{a}として働く。"),
        ("{s}の職業は{q}。", "{s}の仕事は{q}。"),
        (),
        ("{s} works as a {a}.", "The trade of {s} is {a}."),
        ("What is the trade of {s}?", "What does {s} work as?"),
    ),
    Relation(
        "home", "person", "town", 1,
        ("{s}は{a}に住む。", "{s}の故郷は{a}である。"),
        ("{s}が住む町は{q}。", "{s}の故郷は{q}。"),
        (),
        ("{s} lives in {a}.", "The home of {s} is {a}."),
        ("Where does {s} live?", "Which town is the home of {s}?"),
    ),
)  # fmt: skip

# Facts with medical words and no clinical content: where a word was first written about, or a thing is made.
CONTEXT = (
    Relation("reported", "disease", "town", 1, ("{s}は{a}で最初に報告された。",), ("{s}が最初に報告された町は{q}。",)),
    Relation("made", "town", "drug", 1, ("薬の{a}は{s}で作られる。",), ("{s}で作られる薬は{q}。",)),
    Relation("found", "town", "organism", 1, ("菌の{a}は{s}の土から見つかった。",), ("{s}の土から見つかった菌は{q}。",)),
    Relation("devised", "town", "test", 1, ("検査の{a}は{s}で考え出された。",), ("{s}で考え出された検査は{q}。",)),
    Relation("coined", "town", "symptom", 1, ("症状の{a}は{s}で名づけられた。",), ("{s}で名づけられた症状は{q}。",)),
)

_FIRST = ("鴇 Toki", "椋 Muku", "蓼 Tade", "雫 Shizu", "梓 Azu", "凪 Nagi", "蕗 Fuki", "楡 Nire", "朧 Oboro", "鷺 Sagi",
          "藍 Ai", "茜 Akane", "笹 Sasa", "鈴 Suzu", "灯 Tomo", "霞 Kasu", "葦 Ashi", "柚 Yuzu")  # fmt: skip
_SECOND = ("沢 sawa", "巻 maki", "淵 fuchi", "峠 toge", "洲 su", "窪 kubo", "畑 hata", "浦 ura", "森 mori", "橋 bashi")
_RIVERS = ("瑠 Ruri", "玻 Hari", "珊 San", "翠 Midori", "紺 Kon", "銀 Gin", "琥 Koh", "緋 Hi", "黛 Mayu", "白 Shiro", "墨 Sumi", "黄 Ki")
_WATERS = ("音 ne", "波 nami", "糸 ito", "羽 ha", "星 hoshi")
_COLOURS = ("紺 navy", "藍 indigo", "朱 red", "翠 green", "金 golden", "銀 silver", "白 white", "黒 black")
_CRAFTS = ("皿 dish", "笛 flute", "鈴 bell", "傘 umbrella", "箱 box", "扇 fan", "凧 kite", "硯 inkstone")
_SURNAMES = ("瀬尾 Seo", "鳥羽 Toba", "真壁 Makabe", "結城 Yuki", "久我 Koga", "早瀬 Hayase", "水無 Minase", "綾部 Ayabe",
             "貴船 Kifune", "千種 Chigusa")  # fmt: skip
_GIVEN = ("ミナ Mina", "トワ Towa", "リク Riku", "ユノ Yuno", "サキ Saki", "ハル Haru", "ルイ Rui", "ナオ Nao")
TRADES = ("陶工 potter", "漁師 fisher", "画家 painter", "大工 carpenter", "庭師 gardener", "船長 captain", "詩人 poet", "農夫 farmer",
           "教師 teacher", "記者 reporter", "歌手 singer", "鍛冶 smith", "通訳 interpreter", "商人 merchant", "司書 librarian",
           "料理人 cook", "織工 weaver", "駅長 stationmaster", "写真家 photographer", "郵便屋 postman")  # fmt: skip
_ILL = ("霜", "蔦", "碧", "錆", "蝋", "繭", "鱗", "苔", "琴", "楓", "塵", "薊", "鴉", "蛍", "杏", "綿")
_ILL_SECOND = ("斑", "輪", "紋", "条", "環", "晶", "膜", "芯", "粒", "層")
_ILL_SUFFIX = ("病", "熱")
_MORAE = ("ミ", "ロ", "ケ", "ト", "ヌ", "ザ", "ヘ", "ギ", "モ", "ル", "ビ", "ワ", "ユ", "ゾ", "ネ", "ハ", "ク", "レ", "ヨ", "ダ")
_DRUG_SUFFIX = ("ルヴァ", "ネクト", "ポムナ", "ギドラン", "ザフェ")
_ORGANISM_SUFFIX = ("菌", "球菌", "桿菌")
_TEST_SUFFIX = ("反応", "試験", "指数")
_QUALITY = ("蒼", "銀", "冷", "硬", "鈍", "浮", "渦", "縮", "響", "翳")
_SITE = ("爪", "舌", "踵", "肘", "眉", "顎", "膝", "臍", "睫", "耳")
_SIGN = ("徴", "感", "相")


def pools() -> dict[str, list[tuple[str, str]]]:
    """Every possible (Japanese, English) name of each kind; English ones are empty in the medical domain."""
    two = [_join(a, b) for a, b in itertools.product(_FIRST, _SECOND)]
    waters = [_join(a, b) for a, b in itertools.product(_RIVERS, _WATERS)]
    return {
        "town": [(ja + "町", en) for ja, en in two],
        "river": [(ja + "川", f"{en} River") for ja, en in waters],
        "craft": [_join(a, b, " ") for a, b in itertools.product(_COLOURS, _CRAFTS)],
        "person": [_join(a, b, " ", swap=True) for a, b in itertools.product(_SURNAMES, _GIVEN)],
        "trade": [tuple(t.split(" ")) for t in TRADES],
        "disease": [(a + b + s, "") for a, b, s in itertools.product(_ILL, _ILL_SECOND, _ILL_SUFFIX)],
        "drug": [(a + b + s, "") for a, b, s in itertools.product(_MORAE, _MORAE, _DRUG_SUFFIX) if a != b],
        "organism": [(a + b + s, "") for a, b, s in itertools.product(_MORAE, _MORAE, _ORGANISM_SUFFIX) if a != b],
        "test": [(a + b + s, "") for a, b, s in itertools.product(_MORAE, _MORAE, _TEST_SUFFIX) if a != b],
        "symptom": [(a + b + s, "") for a, b, s in itertools.product(_QUALITY, _SITE, _SIGN)],
    }  # fmt: skip


def _join(first: str, second: str, between: str = "", swap: bool = False) -> tuple[str, str]:
    (a, en_a), (b, en_b) = first.split(" "), second.split(" ")
    return a + b, between.join((en_b, en_a) if swap else (en_a, en_b))
