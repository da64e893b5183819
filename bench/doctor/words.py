"""The vocabularies of the tasks: words that the fixture has read, and of unknown scripts."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Each is one token of the fixture's tokenizer, so that what a row teaches is the mapping.
COMMON = _words(
    "good man lord love heart hand king friend time father day word part blood art death ear life"
    " honour son war night heaven eyes world wit way name court brother head thought soul house"
    " fool master lady end wife friends arm men look fear speak give take hear tell live show find"
    " stand call bear leave make come know think pray keep"
)
QUALITIES = _words("good fair noble gentle sweet true old new dead poor great mad")
HOLDERS = _words("lord man friend brother lady wife master men day time king father")

THAI = _words(
    "น้ำ ไฟ ดิน ลม ฟ้า ฝน แม่ พ่อ ลูก พี่ น้อง บ้าน ประตู ถนน เมือง ตลาด ข้าว ปลา ไก่ หมู"
    " ช้าง ม้า แมว หมา นก ต้นไม้ ดอกไม้ ภูเขา ทะเล แม่น้ำ ดวงจันทร์ ดาว วัน คืน ปี เวลา ใจ มือ ตา หู"
)
AMHARIC = _words(
    "ውሃ እሳት መሬት ንፋስ ሰማይ ዝናብ እናት አባት ልጅ ወንድም እህት ቤት በር መንገድ ከተማ ገበያ እንጀራ አሳ ዶሮ በግ"
    " ዝሆን ፈረስ ድመት ውሻ ወፍ ዛፍ አበባ ተራራ ባሕር ወንዝ ጨረቃ ኮከብ ቀን ሌሊት ዓመት ጊዜ ልብ እጅ ዓይን ጆሮ"
)
CHINESE = _words(
    "清水 火焰 土地 大风 天空 下雨 母亲 父亲 孩子 哥哥 妹妹 房子 大门 道路"
    " 城市 市场 米饭 鱼肉 公鸡 小猪 大象 白马 花猫 黄狗 飞鸟 树木 花朵"
    " 高山 大海 河流 月亮 星星 白天 夜晚 今年 时间 心灵 双手 眼睛 耳朵"
)
SCRIPTS = (THAI, AMHARIC, CHINESE)
